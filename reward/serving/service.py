"""Ray Serve application of the judge service, and its handle for the process that starts it.

`serve run flex_judge.reward.app:build model=... replicas=2` builds the same application that `JudgeService` deploys.
Ray Serve provides placement, health checks, restarts, autoscaling and HTTP. This package adds prefix-affine routing
(`flex_judge.reward.serving.routing`), retries after the death of a replica (`flex_judge.reward.serving.dispatch`), and
the gateway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from flex_judge.judges.concurrency import run_concurrently
from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S, ServiceConfig
from flex_judge.reward.serving.deployment import DRAIN_POLL_S, QUIET, HttpAddress, ReportReplicas, ServeApplication
from flex_judge.reward.serving.dispatch import Dispatcher
from flex_judge.reward.serving.ingress import OTHER_PARTS, JudgeGateway, ReplicaSender
from flex_judge.reward.serving.kept_work import KeptWork
from flex_judge.reward.serving.logs import find_log_file, find_log_folder
from flex_judge.reward.serving.replica import JudgeReplica

__all__ = ["HttpAddress", "JudgeService", "ServiceConfig", "create_dispatcher"]


class JudgeService:
    """Judge service on Ray Serve, and the client to it.

    Entering the context only requests the replicas; `wait_until_ready` waits for them, so other work can run meanwhile.

    Example:
        >>> async with JudgeService(config) as service:
        ...     await service.wait_until_ready()
        ...     judgment = await service.judge(comparison)
    """

    def __init__(self, config: ServiceConfig, http: HttpAddress | None = None, private: bool = False) -> None:
        """Describe a service without starting it.

        Args:
            config: settings with placed replicas, see `ServiceConfig.place_on`.
            http: HTTP address; needs `config.gateway`. If Serve runs already, it must listen there.
            private: whether the name is reserved for this caller; an existing service of that name is removed first,
                and the service drains for PRIVATE_DRAIN_S only.
        """
        self.config = replace(config, drain_s=PRIVATE_DRAIN_S) if private else config
        self.http = http
        self._dispatcher: Dispatcher | None = None
        self._gateway: Any = None
        self._application = ServeApplication(config.name, "judge service", http, private, OTHER_PARTS)

    async def __aenter__(self) -> JudgeService:
        await self._application.deploy_async(application(self.config), None if self.config.gateway is None else "/")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._application.remove_async()

    async def wait_until_ready(self, report: ReportReplicas | None = None) -> None:
        """Wait until every replica can judge.

        Args:
            report: receives the number of running replicas while they start.

        Raises:
            ClusterError: a replica could not be started; the message says why.
        """
        from ray import serve

        try:
            await self._application.wait_until_ready(report)
        except ClusterError as e:
            log_file = find_log_file(self.config.log, self.config.name)
            raise ClusterError(f"{e}; log: {log_file}; logs of Ray: {find_log_folder()}") from e
        if self.config.gateway is not None:
            # The first call through a handle takes a second. It is made here, as `drain` must act immediately.
            self._gateway = serve.get_deployment_handle(JudgeGateway.__name__, self.config.name)
            await self._gateway.get_pending.remote()

    @property
    def url(self) -> str:
        """URL of the service on this machine."""
        if self.http is None:
            raise UsageError("this service has no HTTP address")
        # The wildcard addresses are valid for listening only.
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.http.host, self.http.host)
        return f"http://{host}:{self.http.port}"

    async def judge(self, comparison: Comparison) -> Judgment:
        """Judge one comparison on some replica. Failures become a status, never a score.

        Raises:
            UsageError: it cannot be judged, see `FlexJudge.ajudge`.
        """
        self._dispatcher = self._dispatcher or create_dispatcher(self.config)
        return await self._dispatcher.judge(comparison)

    async def stream_judgments(self, groups: Sequence[Sequence[Comparison]]) -> AsyncGenerator[Judgment, None]:
        """Judge groups of comparisons and yield each judgment once it is ready.

        Comparisons with the same prompt go to one replica. Every comparison gives exactly one judgment with its id; the
        comparisons of a dead replica are judged by another one, see `Dispatcher`.

        Raises:
            UsageError: an id occurs twice, or a comparison cannot be judged (for example, its rubric is unknown). The
                latter is raised after all others are judged.
        """
        comparisons = [comparison for group in groups for comparison in group]
        repeated = [i for i, n in Counter(c.id for c in comparisons).items() if n > 1]
        if repeated:
            raise UsageError(f"{len(repeated)} comparison ids occur more than once, {repeated[0]!r} among them")
        async with aclosing(run_concurrently(comparisons, self.judge, 2 * self.config.max_requests)) as judgments:
            async for _, judgment in judgments:
                yield judgment

    async def drain(self) -> None:
        """Refuse new HTTP requests, and wait until all accepted ones are answered. Call `wait_until_ready` first."""
        if self._gateway is not None:
            await self._gateway.drain.remote()


def create_dispatcher(config: ServiceConfig) -> Dispatcher:
    """Create a dispatcher to a running judge service, in any process of its cluster. Belongs to one event loop."""
    from ray import serve

    handle = serve.get_deployment_handle(JudgeReplica.__name__, config.name)
    return Dispatcher(ReplicaSender(handle), config.max_requests)


def build(args: dict[str, Any]) -> Any:
    """Build the application, as called by `serve run`, `serve deploy` and KubeRay.

    Args:
        args: settings by name, see `ServiceConfig.from_args`. The cluster is unknown here, so GPUs must be set with
            `gpus_per_replica` (default 0), which is also the tensor parallel size.

    Raises:
        UsageError: a setting is unknown or has an invalid value.
    """
    from flex_judge.reward.serving.cluster import Cluster

    config = ServiceConfig.from_args(args)
    max_replicas = config.replica_range[1]
    gpus = config.gpus_per_replica or 0.0
    # Serve waits until the cluster has grown, so all requested resources are assumed to exist.
    cpus = max(1.0, config.cpus_per_replica or 1.0)
    return application(config.place_on(Cluster(cpus=cpus * max_replicas, gpus=gpus * max_replicas, local=False)))


def application(config: ServiceConfig) -> Any:
    """Bind the gateway (if configured) and the replicas, with the resources of `ServiceConfig.place_on`."""
    from ray import serve

    if config.gateway is None:
        return _build_replicas(config)
    options: dict[str, Any] = {
        "num_replicas": 1,
        # Effectively unlimited: the gateway limits requests itself, and tells clients when to retry.
        "max_ongoing_requests": 100_000,
        "ray_actor_options": {"num_cpus": 0},  # it mostly waits, and must not take a CPU from a replica
        "health_check_period_s": config.health_check_period_s,
        "health_check_timeout_s": config.health_check_timeout_s,
        "logging_config": QUIET,
    }
    store = serve.deployment(KeptWork).options(**options, graceful_shutdown_timeout_s=0.0).bind(config.gateway.retain_s)
    replicas = _build_replicas(config, store)
    gateway = serve.deployment(serve.ingress()(JudgeGateway)).options(
        **options, graceful_shutdown_timeout_s=config.drain_s, graceful_shutdown_wait_loop_s=DRAIN_POLL_S
    )
    return gateway.bind(replicas, store, config)


def _build_replicas(config: ServiceConfig, store: Any = None) -> Any:
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
        # By name and not as a class, because this module must import without Ray.
        options["request_router_config"] = RequestRouterConfig(
            request_router_class="flex_judge.reward.serving.routing.PrefixRouter",
            request_router_kwargs={"slack": config.affinity_slack},
        )
    if gpus > 1:  # one engine on several GPUs, which must be on one machine
        options["placement_group_bundles"] = [{"CPU": cpus, "GPU": gpus}]
        options["placement_group_strategy"] = "STRICT_PACK"
    folder = None if config.gateway is None else config.gateway.allow_adapter_updates
    min_replicas, max_replicas = config.replica_range
    if config.autoscale is None:
        options["num_replicas"] = config.replicas
    else:
        options["autoscaling_config"] = AutoscalingConfig(
            min_replicas=min_replicas,
            max_replicas=max_replicas,
            # Add a replica only if more comparisons are waiting than an engine runs in one batch.
            target_ongoing_requests=config.judge.engine.max_batch,
            upscale_delay_s=config.upscale_delay_s,
            downscale_delay_s=config.downscale_delay_s,
        )
    return serve.deployment(JudgeReplica).options(**options).bind(config.judge, config.log, config.name, store, folder)
