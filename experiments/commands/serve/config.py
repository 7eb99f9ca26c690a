"""Settings of `flex-judge serve`, as flags and YAML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from annotated_types import Interval

from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.judge_config import (
    JUDGE_SECTION,
    set_think_budget,
    start_timeout_setting,
    think_tokens_setting,
)
from flex_judge.experiments.common.start_checks import check_engine_memory, check_judge
from flex_judge.judges.errors import UsageError
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.validation.classes import PositiveFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection
from flex_judge.reward.client.api_key import has_short_key, hash_keys, read_keys, take_keys
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.logs import LogConfig, open_log_file
from flex_judge.reward.serving.cluster import Cluster, preview_local_cluster
from flex_judge.reward.serving.config import DEFAULT_ADAPTER_RANK, ServiceConfig

PLACEMENT, ACCESS = "placement", "access and limits"
"""Headings in the help."""
NO_FLAGS = frozenset(
    {"affinity", "affinity_slack", "health_check_period_s", "health_check_timeout_s", "upscale_delay_s"}
    | {"downscale_delay_s", "max_items", "max_bodies_mib", "retain_s", "openrlhf_deadline_s", "end_of_turn"}
    | {"replicas", "api_key", "rubrics", "allow_adapter_updates"}
)
"""Settings of a service that the command sets itself or leaves at their defaults."""


@settings_class(kw_only=True)
class ServeRun:
    """Settings of the reward service."""

    service: Annotated[ServiceConfig, SettingsSection(PLACEMENT, NO_FLAGS).merge_outer(JUDGE_SECTION)]
    """The service, without settings that depend on the cluster: see `build_service_config`."""
    max_think_tokens: PositiveInt | None = think_tokens_setting()
    replicas: PositiveInt | None = setting(
        None, "Number of judge replicas (default: one per GPU, or 1)", metavar="N", group=PLACEMENT
    )
    address: str | None = setting(
        None,
        "Join the Ray cluster at this host:port, or auto, instead of starting one",
        metavar="HOST:PORT",
        group=PLACEMENT,
    )
    start_timeout_s: PositiveFloat = start_timeout_setting(PLACEMENT)
    host: str = setting(
        "127.0.0.1", "Address to listen on; 0.0.0.0 for all interfaces", metavar="HOST", group=PLACEMENT
    )
    port: Annotated[int, Interval(ge=0, le=65535)] = setting(
        8000, "Port to listen on; 0 for any free port, without --address", metavar="PORT", group=PLACEMENT
    )
    every_node: bool = setting(False, "Listen on every node of the cluster, not only on its head", group=PLACEMENT)
    ledger: str | None = setting(
        None,
        "SQLite file that records generations, so that a restarted service does not compute them again (default: none)",
        metavar="FILE",
        group=PLACEMENT,
    )
    api_key: str | None = setting(
        None,
        "API key that clients must send: env:NAME for a variable, a file that holds it, or its hash sha256:HEX; lines "
        "NAME:KEY for several keys (default: no key)",
        metavar="env:NAME|FILE|sha256:HEX",
        group=ACCESS,
    )
    allow_rubric: tuple[str, ...] = setting(
        (),
        "Rubric file (TOML) that clients may name by its stem, in addition to the presets; may be repeated",
        metavar="FILE",
        group=ACCESS,
    )
    allow_adapter_updates: str | None = setting(
        None,
        "Folder with LoRA adapters that clients may put in the place of the judge's while the service runs (default: "
        "none)",
        metavar="FOLDER",
        group=ACCESS,
    )
    max_adapter_rank: PositiveInt | None = setting(
        None,
        f"Maximum rank of these adapters (default: {DEFAULT_ADAPTER_RANK})",
        metavar="N",
        group=ACCESS,
    )

    allow_sleep: bool = setting(
        False,
        "Let clients put the judge to sleep while the service runs, which frees its GPU memory for a training step",
        group=ACCESS,
    )

    def __post_init__(self) -> None:
        if self.replicas is not None and self.service.autoscale is not None:
            raise UsageError("--replicas and --autoscale exclude each other; leave one out")
        # Everything below raises UsageError for a bad setting, before a cluster is started.
        for path in self.allow_rubric:
            load_rubric(path)
        load_rubric(self.gateway_config.openrlhf.rubric)
        if self.max_adapter_rank is not None and self.allow_adapter_updates is None:
            raise UsageError("--max-adapter-rank needs --allow-adapter-updates FOLDER; add it, or leave the rank out")
        if self.gateway_config.wake_on_request and not self.allow_sleep:
            raise UsageError("--wake-on-request needs --allow-sleep; add it, or leave the flag out")
        if self.log_config.log_file is not None:
            open_log_file(self.log_config.log_file).close()
        # A dry run on a cluster that is large enough for the replicas.
        gpus = 1e6 if self.replicas else max(1.0, self.service.gpus_per_replica or 0.0)
        _ = self.build_service_config(Cluster(cpus=1e6, gpus=gpus, local=False))

    @property
    def gateway_config(self) -> GatewayConfig:
        """Settings of the HTTP gateway.

        Raises:
            UsageError: The API key cannot be read.
        """
        assert self.service.gateway is not None
        return replace(
            self.service.gateway,
            api_key=read_keys(self.api_key) if self.api_key is not None else None,
            # Paths are absolute, because replicas have other working directories.
            rubrics=tuple(str(Path(path).resolve()) for path in self.allow_rubric),
            allow_adapter_updates=self.adapter_folder,
        )

    @property
    def adapter_folder(self) -> str | None:
        """Absolute path of the folder with adapters that clients may load."""
        folder = self.allow_adapter_updates
        return None if folder is None else str(Path(folder).expanduser().resolve())

    @property
    def judge_config(self) -> JudgeConfig:
        """Engine and judging settings of the judge."""
        judge = self.service.judge
        # Absolute, because replicas have other working directories.
        engine = replace(judge.engine, ledger=str(Path(self.ledger).resolve())) if self.ledger else judge.engine
        engine = replace(engine, allow_sleep=self.allow_sleep)
        if self.max_adapter_rank is not None:
            engine = replace(engine, max_adapter_rank=self.max_adapter_rank)
        return JudgeConfig(engine, set_think_budget(judge.settings, engine.model, self.max_think_tokens))

    @property
    def log_config(self) -> LogConfig:
        """Settings of the log, with an absolute path, because replicas have other working directories."""
        log = self.service.log
        return log if log.log_file is None else replace(log, log_file=str(Path(log.log_file).expanduser().resolve()))

    def check_start(self) -> None:
        """Check the judge, and the resources of this machine unless a cluster is joined, without starting anything.

        Raises:
            UsageError: the judge cannot be loaded, or this machine is too small.
        """
        check_judge(self.judge_config)
        if not self.address and self.adapter_folder is not None and not Path(self.adapter_folder).is_dir():
            raise UsageError(f"--allow-adapter-updates {self.allow_adapter_updates}: no such folder; create it first")
        cluster = None if self.address else preview_local_cluster()
        if cluster is not None:
            service = self.build_service_config(cluster)
            engines = [service.judge.engine] * service.replica_range[0]
            check_engine_memory(engines, "the service", "use fewer --replicas", uses_ray=True)

    def with_port(self, port: int) -> ServeRun:
        """Return the same settings with another port."""
        return replace(self, port=port)

    def hide_key(self) -> tuple[ServeRun, bool]:
        """Return the same settings with hashes of the keys, and whether a key is short.

        The keys' environment variable is removed, as Ray would pass it to every process.
        """
        if self.api_key is None:
            return self, False
        keys = take_keys(self.api_key)
        return replace(self, api_key=hash_keys(keys)), has_short_key(keys)

    def build_service_config(self, cluster: Cluster) -> ServiceConfig:
        """Build the settings of the service, with its replicas placed on a cluster.

        Raises:
            ClusterError: The cluster is too small.
        """
        replicas = self.replicas
        if replicas is None:
            # One per GPU; without GPUs a single replica, which gets all cores.
            is_remote = self.judge_config.engine.is_remote
            replicas = 1 if is_remote else max(1, int(cluster.gpus / max(1.0, self.service.gpus_per_replica or 1.0)))
        config = replace(
            self.service,
            judge=self.judge_config,
            replicas=replicas,
            gateway=self.gateway_config,
            log=self.log_config,
        )
        return config.place_on(cluster)
