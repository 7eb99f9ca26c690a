"""Settings of the service: what a replica holds, how many there are, and where they stand in a cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Any, get_args, get_type_hints

from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import ClusterError, UsageError
from flex_judge.judges.models.embedded import JUDGE
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving.affinity import SLACK
from flex_judge.reward.serving.cluster import Cluster

NAME = "flex-judge"
DEFAULT_MODEL = JUDGE


@dataclass(frozen=True)
class ServiceConfig:
    judge: JudgeConfig
    replicas: int = 2
    autoscale: str | None = None
    """`MIN:MAX` replicas, as many as the load asks for; instead of `replicas`."""
    name: str = NAME
    """Name of the Serve application; must be unique within the cluster."""
    gateway: GatewayConfig | None = None
    """The HTTP side; None leaves it out, and the service is used by its handle alone."""
    cpus_per_replica: float | None = None
    gpus_per_replica: float | None = None
    """A whole number is also the engine's tensor parallel size. None for either: a share of the cluster, see
    `placed_on`."""
    affinity: bool = True
    """Whether a prompt's candidates go to the replica that has its prefix; else to any, as Ray Serve does by
    default."""
    affinity_slack: int = SLACK
    """Requests that a replica may have under way before its load counts, see `flex_judge.reward.serving.affinity`."""
    health_check_period_s: float = 2.0
    health_check_timeout_s: float = 30.0
    upscale_delay_s: float = 10.0
    """With autoscaling: how long the load must ask for more replicas before there are more."""
    downscale_delay_s: float = 300.0
    """With autoscaling: how long the load must ask for fewer. A trainer's load comes in waves."""
    drain_s: float = 5.0
    """How long a replica that is to go may still work on what it has."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise UsageError(f"replicas must be at least 1, not {self.replicas}")
        for name in ("cpus_per_replica", "gpus_per_replica"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {value}")
        gpus = self.gpus_per_replica
        if gpus is not None and gpus > 1 and gpus != int(gpus):
            raise UsageError(f"gpus_per_replica must be a whole number, or a fraction of one GPU, not {gpus}")
        fewest, most = self.range
        if not 1 <= fewest <= most:
            raise UsageError(f"autoscale must be MIN:MAX with 1 <= MIN <= MAX, not {self.autoscale!r}")

    @property
    def range(self) -> tuple[int, int]:
        """Fewest and most replicas."""
        if self.autoscale is None:
            return self.replicas, self.replicas
        fewest, colon, most = self.autoscale.partition(":")
        if not (colon and fewest.isdecimal() and most.isdecimal()):
            raise UsageError(f"autoscale must be MIN:MAX, such as 1:4, not {self.autoscale!r}")
        return int(fewest), int(most)

    @property
    def per_replica(self) -> int:
        """Comparisons that are sent to a replica at a time: what its engine computes, and a few more in front of it,
        so that it never waits for the next one."""
        return self.judge.engine.max_batch * 5 // 4 + 1

    @property
    def room(self) -> int:
        """Comparisons that all replicas together take at a time."""
        return self.per_replica * self.range[1]

    def placed_on(self, cluster: Cluster) -> ServiceConfig:
        """With each replica's share of the cluster: a whole GPU if there are enough, else a part of one, else CPUs.

        Raises:
            ClusterError: the cluster is too small.
        """
        fewest = self.range[0]
        cpus = self.cpus_per_replica
        if cluster.cpus < fewest * (1.0 if cpus is None else cpus):
            each = "a CPU" if cpus is None else f"{cpus:g} CPUs"
            raise ClusterError(
                f"{fewest} replicas need {each} each and the cluster has {cluster.cpus:g}; use fewer --replicas"
            )
        gpus = self.gpus_per_replica
        if gpus is None:
            gpus = gpu_share(cluster.gpus, self.range[1])
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
            cpus = float(cluster.cpus // self.range[1]) if cluster.local else 1.0
            cpus = max(1.0, cpus)
        if not gpus:
            engine = replace(engine, threads=engine.threads or max(1, int(cpus or 1)))
        return replace(self, cpus_per_replica=cpus, gpus_per_replica=gpus, judge=replace(self.judge, engine=engine))

    @classmethod
    def from_args(cls, args: Mapping[str, Any]) -> ServiceConfig:
        """Settings by name, as `serve run flex_judge.reward.app:build model=... replicas=2` and a Serve
        configuration file give them: those of this class, of GatewayConfig, EngineConfig and JudgeSettings, in one
        table.

        Raises:
            UsageError: an unknown name, or a value of another type.
        """
        skipped = ("judge", "gateway", "media", "openrlhf")  # tables of their own
        configs = (cls, GatewayConfig, EngineConfig, JudgeSettings)
        known = sorted({f.name for c in configs for f in fields(c)} - set(skipped))
        for name in args:
            if name not in known:
                raise UsageError(f"unknown setting {name!r}; there are {', '.join(known)}")
        if args.get("api_key") is not None:
            args = {**args, "api_key": read_key(str(args["api_key"]))}
        engine = _filled(EngineConfig, {"model": DEFAULT_MODEL, **args})
        judge = JudgeConfig(engine, _filled(JudgeSettings, args))
        made: ServiceConfig = _filled(cls, args, judge=judge, gateway=_filled(GatewayConfig, args))
        return made


def gpu_share(gpus: float, engines: int) -> float:
    """The share of a GPU that each of so many engines gets: a whole one, or such a part of one that as many as are
    needed fit on each device."""
    return 1.0 / max(1, math.ceil(engines / gpus)) if gpus else 0.0


_READ: dict[type, Any] = {
    int: int,
    float: float,
    str: str,
    bool: lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    tuple: lambda text: tuple(part.strip() for part in text.split(",") if part.strip()),
}


def _filled(config: type[Any], args: Mapping[str, Any], **made: Any) -> Any:
    """An instance of a dataclass with those values that it has a field for. Two classes may share one: a deadline."""
    types = get_type_hints(config)
    values = {f.name: _value(f.name, args[f.name], types[f.name]) for f in fields(config) if f.name in args}
    return config(**(values | made))


def _value(name: str, value: Any, annotation: Any) -> Any:
    """A value as the annotation wants it; a text, as a command line gives it, is read."""
    if isinstance(annotation, UnionType):
        if value is None or value in ("null", "none"):
            return None
        (annotation,) = (a for a in get_args(annotation) if a is not type(None))
    kind = getattr(annotation, "__origin__", annotation)
    try:
        if isinstance(value, str):
            return _READ[kind](value)
        if kind is tuple and isinstance(value, list):
            return tuple(map(str, value))
        if type(value) is kind or (kind is float and type(value) is int):
            return kind(value)
    except (ValueError, KeyError) as e:
        raise UsageError(f"setting {name!r} must be of type {kind.__name__}, not {value!r}") from e
    raise UsageError(f"setting {name!r} must be of type {kind.__name__}, not {value!r}")
