"""Settings of the service: the judge of a replica, the number of replicas, and their resources in a cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field, replace
from typing import Annotated, Any

from flex_judge.judges.errors import ClusterError, UsageError, suggest_name
from flex_judge.judges.models.embedded import JUDGE
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.validation.classes import Metavar, NonNegativeFloat, PositiveFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection, build_settings, flatten_settings
from flex_judge.reward.client.api_key import read_keys
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.logs import LogConfig
from flex_judge.reward.serving.affinity import DEFAULT_SLACK
from flex_judge.reward.serving.cluster import Cluster

NAME = "flex-judge"
DEFAULT_MODEL = JUDGE
DEFAULT_ADAPTER_RANK = 64
"""Maximum rank of the adapters of a service that allows updates, unless `max_adapter_rank` is set."""
FLAG_NAMES = {"allow_rubric": "rubrics"}
"""Flag of `flex-judge serve`, with underscores -> name of the setting, where the two differ."""
PRIVATE_DRAIN_S = 5.0
"""Drain time of the private service of a run. Its only caller is the run, which no longer waits when it stops."""


@settings_class
class ServiceConfig:
    """Judge service: the judge of each replica, the number of replicas, and their share of a cluster."""

    judge: JudgeConfig
    replicas: PositiveInt = 2
    """Number of judge replicas."""
    autoscale: Annotated[str, Metavar("MIN:MAX")] | None = None
    """Minimum and maximum number of replicas for autoscaling by load, instead of a fixed number."""
    name: str = NAME
    """Name of the Serve application; must be unique within the cluster."""
    gateway: Annotated[GatewayConfig, SettingsSection("access and limits")] | None = None
    """HTTP side; None runs no HTTP server, and the service is used through its handle only."""
    log: Annotated[LogConfig, SettingsSection("logging")] = field(default_factory=LogConfig)
    """Log of the gateway and the replicas."""
    cpus_per_replica: NonNegativeFloat | None = None
    """Number of CPUs per replica (default: an equal share of the cluster)."""
    gpus_per_replica: NonNegativeFloat | None = None
    """Number of GPUs per replica, a fraction or whole number; whole numbers are also the tensor parallel size (default:
    an equal share of the cluster, at most 1)."""
    affinity: bool = True
    """Send a prompt's candidates to the replica that has its prefix cached; without it, Ray Serve picks any replica."""
    affinity_slack: int = DEFAULT_SLACK
    """Number of running requests of a replica below which its load is ignored, see
    `flex_judge.reward.serving.affinity`."""
    health_check_period_s: PositiveFloat = 2.0
    """Seconds between two health checks of a replica."""
    health_check_timeout_s: PositiveFloat = 30.0
    """Seconds after which a health check fails."""
    upscale_delay_s: NonNegativeFloat = 10.0
    """Autoscaling: seconds of high load before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 300.0
    """Autoscaling: seconds of low load before replicas are removed. A trainer's load comes in waves."""
    drain_s: NonNegativeFloat = 600.0
    """Maximum time in seconds for a stopping replica to finish accepted requests."""

    def __post_init__(self) -> None:
        gpus = self.gpus_per_replica
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UsageError(f"gpus_per_replica must be a whole number, or a fraction of one GPU, not {gpus}")
        min_replicas, max_replicas = self.replica_range
        if not 1 <= min_replicas <= max_replicas:
            raise UsageError(f"autoscale must be MIN:MAX with 1 <= MIN <= MAX, not {self.autoscale!r}")
        if self.gateway is not None and self.gateway.allow_adapter_updates and not self.judge.engine.max_adapter_rank:
            engine = replace(self.judge.engine, max_adapter_rank=DEFAULT_ADAPTER_RANK)
            object.__setattr__(self, "judge", replace(self.judge, engine=engine))

    @property
    def replica_range(self) -> tuple[int, int]:
        """Minimum and maximum number of replicas."""
        if self.autoscale is None:
            return self.replicas, self.replicas
        minimum, colon, maximum = self.autoscale.partition(":")
        if not (colon and minimum.isdecimal() and maximum.isdecimal()):
            raise UsageError(f"autoscale must be MIN:MAX, such as 1:4, not {self.autoscale!r}")
        return int(minimum), int(maximum)

    @property
    def requests_per_replica(self) -> int:
        """Maximum number of concurrent comparisons of a replica.

        It is a quarter above the engine's batch size, so that the engine never waits for the next comparison.
        """
        return self.judge.engine.max_batch * 5 // 4 + 1

    @property
    def max_requests(self) -> int:
        """Maximum number of concurrent comparisons of all replicas."""
        return self.requests_per_replica * self.replica_range[1]

    def place_on(self, cluster: Cluster) -> ServiceConfig:
        """Return a copy with each replica's resources: one GPU if there are enough, else a fraction of one, else CPUs.

        A replica whose model runs on a server of the user needs no GPU, and one CPU.

        Raises:
            ClusterError: the cluster is too small.
        """
        min_replicas, max_replicas = self.replica_range
        cpus = self.cpus_per_replica
        if cpus is None and self.judge.engine.is_remote:
            cpus = 1.0
        if cluster.cpus < min_replicas * (1.0 if cpus is None else cpus):
            need = "a CPU" if cpus is None else f"{cpus:g} CPUs"
            raise ClusterError(
                f"{min_replicas} replicas need {need} each and the cluster has {cluster.cpus:g}; use fewer --replicas"
            )
        gpus = 0.0 if self.judge.engine.is_remote else self.gpus_per_replica
        if gpus is None:
            gpus = compute_gpu_share(cluster.gpus, max_replicas)
        if gpus * min_replicas > cluster.gpus:
            raise ClusterError(
                f"{min_replicas} replicas need {gpus * min_replicas:g} GPUs and the cluster has {cluster.gpus:g}; use "
                "fewer --replicas or --gpus-per-replica"
            )
        engine = self.judge.engine
        if gpus:
            cpus = 1.0 if cpus is None else cpus  # the GPU does the work
            # vLLM's share refers to a whole GPU, and replicas on the same GPU must fit next to each other.
            memory_share = engine.gpu_memory_utilization * min(1.0, gpus)
            engine = replace(
                engine,
                own_process=True,
                tensor_parallel=max(1, int(gpus)),
                gpu_memory_utilization=round(memory_share, 3),
            )
        else:
            if cpus is None:
                # In a cluster that others use too, claim no more than one CPU per replica.
                cpus = max(1.0, float(cluster.cpus // max_replicas)) if cluster.local else 1.0
            engine = replace(engine, threads=engine.threads or max(1, int(cpus)))
        return replace(self, cpus_per_replica=cpus, gpus_per_replica=gpus, judge=replace(self.judge, engine=engine))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> ServiceConfig:
        """Build the settings from the arguments of `serve run flex_judge.reward.app:build model=... replicas=2`.

        The `args` of a Serve configuration file have the same names as the options of `flex-judge serve`, not nested.

        Raises:
            UsageError: an unknown name, a name that is given twice, or a value of another type.
        """
        settings = flatten_settings(cls)
        values: dict[str, Any] = {}
        for spelling, value in args.items():
            name = spelling.replace("-", "_")
            name = FLAG_NAMES.get(name, name)
            if name in values:
                raise UsageError(f"setting {spelling!r} is given twice, also under another name; remove one")
            if name not in settings:
                raise UsageError(f"unknown setting {spelling!r}; {suggest_name(spelling, sorted(settings))}")
            values[name] = settings[name].check_value(value, f"setting {name!r}", parse=True)
        if values.get("api_key") is not None:
            values["api_key"] = read_keys(values["api_key"])
        return build_settings(cls, {"model": DEFAULT_MODEL, **values})


def compute_gpu_share(gpus: float, engines: int) -> float:
    """Compute each engine's share of a GPU: 1, or a fraction if several engines must share a GPU; 0 without GPUs."""
    return 1.0 / max(1, math.ceil(engines / gpus)) if gpus else 0.0
