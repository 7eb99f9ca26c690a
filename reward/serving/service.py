"""A running judge service, seen from the process that starts it.

Ray Serve does the placing, the health checks, the restarts, the autoscaling and the HTTP. What is ours: where a
prompt's candidates go (`flex_judge.reward.serving.routing`), what happens to what a dead replica had in hand
(`flex_judge.reward.serving.dispatch`), and the gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from flex_judge.judges import Comparison, Judgment
from flex_judge.judges.concurrency.streams import run_concurrently
from flex_judge.judges.errors import UsageError
from flex_judge.reward.serving.app import application
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.deployment import Deployed, HttpAddress
from flex_judge.reward.serving.dispatch import Dispatcher
from flex_judge.reward.serving.ingress import JudgeGateway, Sender
from flex_judge.reward.serving.replica import JudgeReplica

__all__ = ["HttpAddress", "JudgeService", "ServiceConfig", "dispatcher_of"]


class JudgeService:
    """A running judge service, and the client to it. Use as `async with JudgeService(config) as service`.

    Entering only asks for the replicas; `ready` waits for them, so that other work can be done meanwhile.
    """

    def __init__(self, config: ServiceConfig, http: HttpAddress | None = None, private: bool = False) -> None:
        """
        Args:
            config: with its replicas placed, see `ServiceConfig.placed_on`.
            http: where to listen; needs `config.gateway`. A cluster whose Serve runs already must listen there.
            private: whether a service of that name can only be what a killed process left, and is removed first.
        """
        self.config = config
        self.http = http
        self._dispatcher: Dispatcher | None = None
        self._gateway: Any = None
        self._deployed = Deployed(config.name, "judge service", http, private)

    async def __aenter__(self) -> JudgeService:
        await self._deployed.started(application(self.config), None if self.config.gateway is None else "/")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._deployed.removed()

    async def ready(self) -> None:
        """Wait until every replica can judge.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve

        await self._deployed.ready()
        if self.config.gateway is not None:
            # Its first call takes a second, which is too long for the one that refuses new requests.
            self._gateway = serve.get_deployment_handle(JudgeGateway.__name__, self.config.name)
            await self._gateway.pending.remote()

    @property
    def url(self) -> str:
        """Where its HTTP is reached from this machine."""
        if self.http is None:
            raise UsageError("this service has no HTTP address")
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.http.host, self.http.host)
        return f"http://{host}:{self.http.port}"

    async def judge(self, comparison: Comparison) -> Judgment:
        """Have one comparison judged by some replica. Failures become a status, never a score.

        Raises:
            UsageError: it cannot be judged as it is, see `FlexJudge.ajudge`.
        """
        self._dispatcher = self._dispatcher or dispatcher_of(self.config)
        return await self._dispatcher.judge(comparison)

    async def stream(self, groups: Sequence[Sequence[Comparison]]) -> AsyncGenerator[Judgment, None]:
        """Judge groups of comparisons; yields judgments as they are ready. What shares a prompt goes to one replica.

        Every comparison gives exactly one judgment. Judgments are told apart by their comparison's id. What was in
        hand on a replica that died is judged by another, see `Dispatcher`.

        Raises:
            UsageError: an id occurs twice, or a comparison cannot be judged at all (an unknown rubric, say); the
                latter is raised when all others are judged.
        """
        comparisons = [comparison for group in groups for comparison in group]
        repeated = [i for i, n in Counter(c.id for c in comparisons).items() if n > 1]
        if repeated:
            raise UsageError(f"{len(repeated)} comparison ids occur more than once, {repeated[0]!r} among them")
        async with aclosing(run_concurrently(comparisons, self.judge, 2 * self.config.room)) as judgments:
            async for _, judgment in judgments:
                yield judgment

    async def drain(self) -> None:
        """Refuse new requests over HTTP, and return when all that were accepted are answered. Needs `ready` first."""
        if self._gateway is not None:
            await self._gateway.drain.remote()


def dispatcher_of(config: ServiceConfig) -> Dispatcher:
    """The client to a judge service that runs, in any process of its cluster. For one event loop."""
    from ray import serve

    return Dispatcher(Sender(serve.get_deployment_handle(JudgeReplica.__name__, config.name)), config.room)
