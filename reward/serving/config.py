"""Settings of the service: what a replica holds, how many there are, and where they stand in a cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.judges.models.embedded import JUDGE
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.validation.classes import Metavar, NonNegativeFloat, PositiveFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection, build_settings, flatten_settings
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving.affinity import DEFAULT_SLACK
from flex_judge.reward.serving.cluster import Cluster

NAME = "flex-judge"
DEFAULT_MODEL = JUDGE
PRIVATE_DRAIN_S = 5.0
"""Drain time of the private service of a run. Its only caller is the run, which no longer waits when it stops."""


@settings_class
class ServiceConfig:
    """A judge service: the judge that each replica holds, how many replicas there are, and their share of a cluster."""

    judge: JudgeConfig
    replicas: PositiveInt = 2
    """Number of judge replicas."""
    autoscale: Annotated[str, Metavar("MIN:MAX")] | None = None
    """Autoscale between MIN and MAX replicas with the load; replaces replicas."""
    name: str = NAME
    """Name of the Serve application; must be unique within the cluster."""
    gateway: Annotated[GatewayConfig, SettingsSection("access and limits")] | None = None
    """The HTTP side; None leaves it out, and the service is used by its handle alone."""
    cpus_per_replica: NonNegativeFloat | None = None
    """CPUs of each replica; the default is an equal share of the cluster."""
    gpus_per_replica: NonNegativeFloat | None = None
    """GPUs of each replica; a whole number is also its tensor parallel size. The default is an equal share of the
    cluster, one GPU at most."""
    affinity: bool = True
    """Send a prompt's candidates to the replica that has its prefix cached; else to any, as Ray Serve does."""
    affinity_slack: int = DEFAULT_SLACK
    """Requests in progress on a replica before its load counts, see `flex_judge.reward.serving.affinity`."""
    health_check_period_s: PositiveFloat = 2.0
    """Seconds between two health checks of a replica."""
    health_check_timeout_s: PositiveFloat = 30.0
    """Seconds after which a health check fails."""
    upscale_delay_s: NonNegativeFloat = 10.0
    """Autoscaling: seconds of high load before replicas are added."""
    downscale_delay_s: NonNegativeFloat = 300.0
    """Autoscaling: seconds of low load before replicas are removed. A trainer's load comes in waves."""
    drain_s: NonNegativeFloat = 600.0
    """Maximum seconds to finish accepted requests before a stopping replica is ended."""

    def __post_init__(self) -> None:
        gpus = self.gpus_per_replica
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UsageError(f"gpus_per_replica must be a whole number, or a fraction of one GPU, not {gpus}")
        fewest, most = self.replica_range
        if not 1 <= fewest <= most:
            raise UsageError(f"autoscale must be MIN:MAX with 1 <= MIN <= MAX, not {self.autoscale!r}")

    @property
    def replica_range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        if self.autoscale is None:
            return self.replicas, self.replicas
        fewest, colon, most = self.autoscale.partition(":")
        if not (colon and fewest.isdecimal() and most.isdecimal()):
            raise UsageError(f"autoscale must be MIN:MAX, such as 1:4, not {self.autoscale!r}")
        return int(fewest), int(most)

    @property
    def requests_per_replica(self) -> int:
        """Comparisons that are sent to a replica at a time: what its engine computes, and a few more in front of it,
        so that it never waits for the next one.
        """
        return self.judge.engine.max_batch * 5 // 4 + 1

    @property
    def max_requests(self) -> int:
        """Comparisons that all replicas together take at a time."""
        return self.requests_per_replica * self.replica_range[1]

    def place_on(self, cluster: Cluster) -> ServiceConfig:
        """With each replica's share of the cluster: a whole GPU if there are enough, else a part of one, else CPUs.

        Raises:
            ClusterError: the cluster is too small.
        """
        fewest = self.replica_range[0]
        cpus = self.cpus_per_replica
        if cluster.cpus < fewest * (1.0 if cpus is None else cpus):
            each = "a CPU" if cpus is None else f"{cpus:g} CPUs"
            raise ClusterError(
                f"{fewest} replicas need {each} each and the cluster has {cluster.cpus:g}; use fewer --replicas"
            )
        gpus = self.gpus_per_replica
        if gpus is None:
            gpus = compute_gpu_share(cluster.gpus, self.replica_range[1])
        if gpus * fewest > cluster.gpus:
            raise ClusterError(
                f"{fewest} replicas need {gpus * fewest:g} GPUs and the cluster has {cluster.gpus:g}; use fewer "
                "--replicas or --gpus-per-replica"
            )
        engine = self.judge.engine
        if gpus:
            share = engine.gpu_memory_utilization * min(1.0, gpus)
            engine = replace(
                engine,
                own_process=True,
                tensor_parallel=max(1, int(gpus)),
                gpu_memory_utilization=round(share, 3),
            )
            cpus = 1.0 if cpus is None else cpus
        elif cpus is None:
            cpus = float(cluster.cpus // self.replica_range[1]) if cluster.local else 1.0
            cpus = max(1.0, cpus)
        if not gpus:
            engine = replace(engine, threads=engine.threads or max(1, int(cpus or 1)))
        return replace(self, cpus_per_replica=cpus, gpus_per_replica=gpus, judge=replace(self.judge, engine=engine))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> ServiceConfig:
        """Settings by name, as `serve run flex_judge.reward.app:build model=... replicas=2` and a Serve
        configuration file give them. The names are those of `flex-judge serve`: nested settings are flat.

        Raises:
            UsageError: an unknown name, or a value of another type.
        """
        settings = flatten_settings(cls)
        values = {}
        for name, value in args.items():
            if name not in settings:
                raise UsageError(f"unknown setting {name!r}; there are {', '.join(sorted(settings))}")
            values[name] = settings[name].check_value(value, f"setting {name!r}", parse=True)
        if values.get("api_key") is not None:
            values["api_key"] = read_key(values["api_key"])
        return build_settings(cls, {"model": DEFAULT_MODEL, **values})


def compute_gpu_share(gpus: float, engines: int) -> float:
    """The share of a GPU that each of so many engines gets: a whole one, or such a part of one that as many as are
    needed fit on each device.
    """
    return 1.0 / max(1, math.ceil(engines / gpus)) if gpus else 0.0
