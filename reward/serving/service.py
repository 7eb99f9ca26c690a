"""The Ray Serve application, and a running judge service seen from the process that starts it.

`serve run flex_judge.reward.app:build model=... replicas=2` builds the same application that `JudgeService` deploys.
Ray Serve does the placement, health checks, restarts, autoscaling and HTTP. Our part: the replica that a prompt's
candidates are routed to (`flex_judge.reward.serving.routing`), retries after a replica died
(`flex_judge.reward.serving.dispatch`), and the gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from flex_judge.judges.concurrency import run_concurrently
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.deployment import DRAIN_POLL_S, QUIET, HttpAddress, ServeApplication
from flex_judge.reward.serving.dispatch import Dispatcher
from flex_judge.reward.serving.ingress import JudgeGateway, ReplicaSender
from flex_judge.reward.serving.replica import JudgeReplica

__all__ = ["HttpAddress", "JudgeService", "ServiceConfig", "create_dispatcher"]


class JudgeService:
    """A running judge service, and the client to it. Use as `async with JudgeService(config) as service`.

    Entering only asks for the replicas; `ready` waits for them, so that other work can be done meanwhile.
    """

    def __init__(self, config: ServiceConfig, http: HttpAddress | None = None, private: bool = False) -> None:
        """Args:
        config: with its replicas placed, see `ServiceConfig.placed_on`.
        http: where to listen; needs `config.gateway`. A cluster whose Serve runs already must listen there.
        private: whether a service of that name can only be what a killed process left, and is removed first.
        """
        self.config = config
        self.http = http
        self._dispatcher: Dispatcher | None = None
        self._gateway: Any = None
        self._deployed = ServeApplication(config.name, "judge service", http, private)

    async def __aenter__(self) -> JudgeService:
        await self._deployed.deploy_async(application(self.config), None if self.config.gateway is None else "/")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._deployed.remove_async()

    async def wait_until_ready(self) -> None:
        """Wait until every replica can judge.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve

        await self._deployed.wait_until_ready()
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
        self._dispatcher = self._dispatcher or create_dispatcher(self.config)
        return await self._dispatcher.judge(comparison)

    async def stream_judgments(self, groups: Sequence[Sequence[Comparison]]) -> AsyncGenerator[Judgment, None]:
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
        async with aclosing(run_concurrently(comparisons, self.judge, 2 * self.config.max_requests)) as judgments:
            async for _, judgment in judgments:
                yield judgment

    async def drain(self) -> None:
        """Refuse new requests over HTTP, and return when all that were accepted are answered. Needs `ready` first."""
        if self._gateway is not None:
            await self._gateway.drain.remote()


def create_dispatcher(config: ServiceConfig) -> Dispatcher:
    """The client to a judge service that runs, in any process of its cluster. For one event loop."""
    from ray import serve

    return Dispatcher(
        ReplicaSender(serve.get_deployment_handle(JudgeReplica.__name__, config.name)), config.max_requests
    )


def build(args: dict[str, Any]) -> Any:
    """The application, as `serve run`, `serve deploy` and KubeRay build it.

    Args:
        args: settings by name, see `ServiceConfig.from_args`. Nothing is known of the cluster here, so GPUs are named:
            `gpus_per_replica` (default 0), which is also the tensor parallel size.

    Raises:
        UsageError: an unknown setting, or a value that is none.
    """
    from flex_judge.reward.serving.cluster import Cluster

    config = ServiceConfig.from_args(args)
    most = config.replica_range[1]
    gpus = config.gpus_per_replica or 0.0
    # Serve waits for a cluster that grows, so whatever is asked for is taken to be there.
    cpus = max(1.0, config.cpus_per_replica or 1.0)
    return application(config.place_on(Cluster(cpus=cpus * most, gpus=gpus * most, local=False)))


def application(config: ServiceConfig) -> Any:
    """The gateway, if there is one, and the replicas behind it, which stand where `config` says (see
    `ServiceConfig.placed_on`).
    """
    from ray import serve

    judges = _build_replicas(config)
    if config.gateway is None:
        return judges
    gateway = serve.deployment(serve.ingress()(JudgeGateway)).options(
        num_replicas=1,
        # What is too much is refused by the gateway itself, which knows how much is waiting and says when to come back.
        max_ongoing_requests=100_000,
        ray_actor_options={"num_cpus": 0},
        health_check_period_s=config.health_check_period_s,
        health_check_timeout_s=config.health_check_timeout_s,
        graceful_shutdown_timeout_s=config.drain_s,
        graceful_shutdown_wait_loop_s=DRAIN_POLL_S,
        logging_config=QUIET,
    )
    return gateway.bind(judges, config.gateway, config.max_requests, config.name)


def _build_replicas(config: ServiceConfig) -> Any:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    cpus, gpus = config.cpus_per_replica or 0.0, config.gpus_per_replica or 0.0
    options: dict[str, Any] = {
        "max_ongoing_requests": config.requests_per_replica,
        "ray_actor_options": {"num_cpus": cpus, "num_gpus": gpus},
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "graceful_shutdown_timeout_s": config.drain_s,
        "graceful_shutdown_wait_loop_s": DRAIN_POLL_S,
        "logging_config": QUIET,
    }
    if config.affinity:
        # Named, not given as a class: this module must load where there is no Ray.
        options["request_router_config"] = RequestRouterConfig(
            request_router_class="flex_judge.reward.serving.routing.PrefixRouter",
            request_router_kwargs={"slack": config.affinity_slack},
        )
    if gpus > 1:  # one engine over several GPUs: they must be on one machine
        options["placement_group_bundles"] = [{"CPU": cpus, "GPU": gpus}]
        options["placement_group_strategy"] = "STRICT_PACK"
    fewest, most = config.replica_range
    if config.autoscale is None:
        options["num_replicas"] = config.replicas
    else:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=fewest,
            max_replicas=most,
            # More than an engine computes at a time must be waiting before another one is worth its start.
            target_ongoing_requests=config.judge.engine.max_batch,
            upscale_delay_s=config.upscale_delay_s,
            downscale_delay_s=config.downscale_delay_s,
        )
    return serve.deployment(JudgeReplica).options(**options).bind(config.judge)
