"""A running judge service, seen from the process that starts it.

Ray Serve does the placing, the health checks, the restarts, the autoscaling and the HTTP. What is ours: where a
prompt's candidates go (`reward.serving.routing`), what happens to what a dead replica had in hand
(`reward.serving.dispatch`), and the gateway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from judges import Comparison, Judgment
from judges.errors import ClusterError, UsageError
from judges.side_by_side import side_by_side
from reward.app import QUIET, application
from reward.config import ServiceConfig
from reward.serving.dispatch import Dispatcher
from reward.serving.ingress import JudgeGateway, Sender
from reward.serving.replica import JudgeReplica

__all__ = ["HttpAddress", "JudgeService", "ServiceConfig"]

READY_POLL_S = 0.5


@dataclass(frozen=True)
class HttpAddress:
    """Where HTTP is served."""

    host: str = "127.0.0.1"
    port: int = 8000
    every_node: bool = False
    """Whether every node of the cluster with a replica listens, or the head node alone."""


class JudgeService:
    """A running judge service, and the client to it. Use as `async with JudgeService(config) as service`.

    Entering only asks for the replicas; `ready` waits for them, so that other work can be done meanwhile.
    """

    def __init__(self, config: ServiceConfig, http: HttpAddress | None = None) -> None:
        """
        Args:
            config: with its replicas placed, see `ServiceConfig.placed_on`.
            http: where to listen; needs `config.gateway`. A cluster whose Serve runs already must listen there.
        """
        self.config = config
        self.http = http
        self._dispatcher: Dispatcher | None = None
        self._gateway: Any = None
        self._deployed = self._started_serve = False

    async def __aenter__(self) -> JudgeService:
        try:
            await asyncio.to_thread(self._deploy)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.shield(asyncio.to_thread(self._remove))

    async def ready(self) -> None:
        """Wait until every replica can judge.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve
        from ray.serve.schema import ApplicationStatus, DeploymentStatus

        while True:
            application = (await asyncio.to_thread(serve.status)).applications.get(self.config.name)
            if application is not None:
                failed = [d for d in application.deployments.values() if d.status == DeploymentStatus.DEPLOY_FAILED]
                if application.status == ApplicationStatus.DEPLOY_FAILED or failed:
                    reason = (failed[0].message if failed else "") or application.message
                    raise ClusterError(f"the judge service could not start: {_last_line(reason)}")
                if application.status == ApplicationStatus.RUNNING:
                    if self.config.gateway is not None:
                        # Its first call takes a second, which is too long for the one that refuses new requests.
                        self._gateway = serve.get_deployment_handle(JudgeGateway.__name__, self.config.name)
                        await self._gateway.pending.remote()
                    return
            await asyncio.sleep(READY_POLL_S)

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
        if self._dispatcher is None:
            from ray import serve

            handle = serve.get_deployment_handle(JudgeReplica.__name__, self.config.name)
            self._dispatcher = Dispatcher(Sender(handle), self.config.room)
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
        async with aclosing(side_by_side(comparisons, self.judge, 2 * self.config.room)) as judgments:
            async for _, judgment in judgments:
                yield judgment

    async def drain(self) -> None:
        """Refuse new requests over HTTP, and return when all that were accepted are answered. Needs `ready` first."""
        if self._gateway is not None:
            await self._gateway.drain.remote()

    def _deploy(self) -> None:
        import ray
        from ray import serve
        from ray.serve.exceptions import RayServeException

        name = self.config.name
        try:
            ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
        except ValueError:
            self._started_serve = True
        if self.http is None:
            serve.start(proxy_location="Disabled", logging_config=QUIET)
        else:
            serve.start(
                proxy_location="EveryNode" if self.http.every_node else "HeadOnly",
                http_options={"host": self.http.host, "port": self.http.port},
                logging_config=QUIET,
            )
            if not self._started_serve:
                _check_address(self.http)
        if name in serve.status().applications:
            raise ClusterError(
                f"the cluster already runs an application called {name!r}; if nobody uses it, remove it with: "
                f"serve delete {name} -y"
            )
        prefix = None if self.config.gateway is None else "/"
        target = serve.RunTarget(target=application(self.config), name=name, route_prefix=prefix)
        try:
            serve.run_many([target], wait_for_applications_running=False)
        except RayServeException as e:  # another application answers at the same path
            raise ClusterError(f"the judge service could not start: {_last_line(str(e))}") from e
        self._deployed = True

    def _remove(self) -> None:
        from ray import serve

        # Another's application of the same name is not ours to delete, nor is a Serve that others use by now to end.
        if self._started_serve and serve.status().applications.keys() <= {self.config.name}:
            serve.shutdown()
        elif self._deployed:
            serve.delete(self.config.name)


def _check_address(http: HttpAddress) -> None:
    """Raise ClusterError if the Serve that runs already listens elsewhere: it would not listen here too."""
    from ray.serve.context import _get_global_client

    there = _get_global_client().http_config
    if (there.host, there.port) != (http.host, http.port):
        raise ClusterError(
            f"Ray Serve runs on this cluster already and listens at {there.host}:{there.port}; "
            f"use --host {there.host} --port {there.port}"
        )


def _last_line(text: str) -> str:
    """The line of a traceback that says what happened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "Error" in line.split(":")[0]]
    return (errors or lines or ["no reason given"])[-1][:300]
