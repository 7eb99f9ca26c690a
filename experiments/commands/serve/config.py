"""The settings of `flex-judge serve`, as flags and YAML."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from flex_judge.experiments.commands.judge.config import JudgeFlags
from flex_judge.experiments.common.flags import check_least, setting
from flex_judge.judges.errors import UsageError
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.reward.client.api_key import read_key
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving.cluster import Cluster
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.types import Method, Normalization, RewardKind, RewardSpec

_WHERE, _WHO, _REMOTE = "where it runs", "who may ask, and how much", "how /get_reward (OpenRLHF) judges"
"""Headings of the help."""


@dataclass(frozen=True)
class ServeRun(JudgeFlags):
    """Settings of the reward service."""

    replicas: int | None = setting(
        None, "judges that work side by side (default: one for each GPU, or 1)", metavar="N", group=_WHERE
    )
    autoscale: str | None = setting(
        None, "instead: as many replicas as the load asks for", metavar="MIN:MAX", group=_WHERE
    )
    gpus_per_replica: float | None = setting(
        None,
        "GPUs that each replica gets; a whole number is its tensor parallel size (default: its share, 1 at most)",
        metavar="N",
        group=_WHERE,
    )
    cpus_per_replica: float | None = setting(
        None, "CPUs that each replica gets (default: its share)", metavar="N", group=_WHERE
    )
    address: str | None = setting(
        None,
        "join the Ray cluster at this host:port (or auto) instead of starting one",
        metavar="HOST:PORT",
        group=_WHERE,
    )
    name: str = setting("flex-judge", "name of the application on its cluster", metavar="NAME", group=_WHERE)
    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 for all", metavar="HOST", group=_WHERE)
    port: int = setting(8000, "port to listen on; 0 for any that is free", metavar="PORT", group=_WHERE)
    every_node: bool = setting(False, "listen on every node of the cluster, not on its head alone", group=_WHERE)
    drain: float = setting(
        600.0, "seconds that work under way gets to end when the service is stopped", metavar="S", group=_WHERE
    )
    api_key: str | None = setting(
        None,
        "the key that clients must send: env:NAME, or a file that holds it",
        metavar="env:NAME|FILE",
        group=_WHO,
    )
    max_pending: int = setting(
        GatewayConfig.max_pending,
        "completions accepted and not yet answered; more are refused with 503",
        metavar="N",
        group=_WHO,
    )
    max_body_mib: int = setting(GatewayConfig.max_body_mib, "largest request", metavar="N", group=_WHO)
    max_media: int = setting(GatewayConfig.max_media, "media in one comparison", metavar="N", group=_WHO)
    media_store_mib: int = setting(
        GatewayConfig.media_store_mib, "memory for media that clients sent", metavar="N", group=_WHO
    )
    media_host: tuple[str, ...] = setting(
        (), "host from which media may be fetched by URL; may be repeated (default: none)", metavar="HOST", group=_WHO
    )
    allow_rubric: tuple[str, ...] = setting(
        (), "rubric file that clients may ask for by its stem; may be repeated", metavar="FILE", group=_WHO
    )
    rubric: str = setting("general", "rubric", metavar="NAME", group=_REMOTE)
    method: Method = setting("pointwise", "how a prompt's completions are judged", group=_REMOTE)
    reward: RewardKind = setting("expected", "what becomes the reward", group=_REMOTE)
    normalize: Normalization = setting("none", "what is done to a group's rewards", group=_REMOTE)
    group_size: int | None = setting(None, "completions of a prompt to wait for", metavar="N", group=_REMOTE)
    gather: float = setting(60.0, "seconds to wait for them", metavar="S", group=_REMOTE)

    def __post_init__(self) -> None:
        check_least(self, {"replicas": 1, "drain": 0, "port": 0, "max_pending": 1, "max_body_mib": 1, "max_media": 1})
        if self.port > 65535:
            raise UsageError(f"--port must be at most 65535, not {self.port}")
        if self.replicas is not None and self.autoscale is not None:
            raise UsageError("--replicas and --autoscale exclude each other")
        for path in self.allow_rubric:
            load_rubric(path)
        load_rubric(self.rubric)
        _ = self.gateway
        _ = self.service(Cluster(cpus=1e6, gpus=1e6, local=False))
        super().__post_init__()

    @property
    def gateway(self) -> GatewayConfig:
        """The HTTP side.

        Raises:
            UsageError: the key cannot be read, or a setting is out of its range.
        """
        return GatewayConfig(
            api_key=read_key(self.api_key) if self.api_key is not None else None,
            max_pending=self.max_pending,
            max_items=min(GatewayConfig.max_items, self.max_pending),
            deadline_s=self.deadline,
            max_body_mib=self.max_body_mib,
            max_bodies_mib=max(GatewayConfig.max_bodies_mib, self.max_body_mib),
            media_store_mib=self.media_store_mib,
            max_media=self.max_media,
            media_hosts=self.media_host,
            rubrics=tuple(str(Path(path).resolve()) for path in self.allow_rubric),
            openrlhf=RewardSpec(self.rubric, self.method, self.reward, self.normalize, self.group_size, self.gather),
        )

    def on_port(self, port: int) -> ServeRun:
        return replace(self, port=port)

    def service(self, cluster: Cluster) -> ServiceConfig:
        """The service, with its replicas placed on a cluster.

        Raises:
            ClusterError: the cluster is too small.
        """
        replicas = self.replicas
        if replicas is None:
            replicas = max(1, int(cluster.gpus / max(1.0, self.gpus_per_replica or 1.0)))
        settings = self.settings_for(self.model)
        config = ServiceConfig(
            JudgeConfig(self.engine_config, settings),
            replicas=replicas,
            autoscale=self.autoscale,
            name=self.name,
            gateway=self.gateway,
            cpus_per_replica=self.cpus_per_replica,
            gpus_per_replica=self.gpus_per_replica,
            drain_s=self.drain,
        )
        return config.placed_on(cluster)
