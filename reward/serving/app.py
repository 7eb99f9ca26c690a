"""The Ray Serve application: `serve run flex_judge.reward.app:build model=... replicas=2`, and what `JudgeService`
deploys.
"""

from __future__ import annotations

from typing import Any

from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.deployment import DRAIN_POLL_S, QUIET
from flex_judge.reward.serving.ingress import JudgeGateway
from flex_judge.reward.serving.replica import JudgeReplica


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
    most = config.range[1]
    gpus = config.gpus_per_replica or 0.0
    # Serve waits for a cluster that grows, so whatever is asked for is taken to be there.
    cpus = max(1.0, config.cpus_per_replica or 1.0)
    return application(config.placed_on(Cluster(cpus=cpus * most, gpus=gpus * most, local=False)))


def application(config: ServiceConfig) -> Any:
    """The gateway, if there is one, and the replicas behind it, which stand where `config` says (see
    `ServiceConfig.placed_on`)."""
    from ray import serve

    judges = _replicas(config)
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
    return gateway.bind(judges, config.gateway, config.room, config.name)


def _replicas(config: ServiceConfig) -> Any:
    from ray import serve
    from ray.serve.config import AutoscalingConfig, RequestRouterConfig

    cpus, gpus = config.cpus_per_replica or 0.0, config.gpus_per_replica or 0.0
    options: dict[str, Any] = {
        "max_ongoing_requests": config.per_replica,
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
    fewest, most = config.range
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
