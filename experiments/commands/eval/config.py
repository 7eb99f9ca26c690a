"""Settings of `flex-judge eval`, as flags and YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from flex_judge.experiments.benchmarks.reply_formats import OWN_FORMAT, REPLY_FORMATS, list_formats
from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.judge_config import JUDGING, JudgeFlags, start_timeout_setting
from flex_judge.experiments.common.start_checks import check_engine_memory, check_judge, check_service_access
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.models import identify_model
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import flatten_settings, flatten_values
from flex_judge.reward.serving.cluster import check_address, preview_local_cluster
from flex_judge.reward.serving.config import ServiceConfig

LEDGER = "judge.ledger"
REPLAY_SETTINGS = ("data", "column", "task", "limit", "replay", "replay_format", "out", "max_failures", "order", "seed")
"""Settings that apply to a replay, where no model runs."""
DATA, _RUN, _RESULTS = "benchmark", "placement", "results"
"""Headings in the help."""


def out_setting(name: str) -> Any:
    """Declare the setting `out` of a run; its default folder ends with a name."""
    return setting(
        None,
        "Output folder; an existing run in it is resumed, also with more --runs or a higher --limit (default: "
        f"runs/eval-{name}; with --replay: none)",
        metavar="DIR",
        group=_RESULTS,
    )


@settings_class(kw_only=True)
class EvalFlags(JudgeFlags):
    """Settings that runs of one benchmark and of several share."""

    # Here for its place in the help; each kind of run describes its own.
    data: tuple[str, ...] = setting((), "Benchmark data", metavar="PATH", group=DATA)
    limit: PositiveInt | None = setting(
        None,
        "Number of items per task, a random sample drawn with --seed, with all groups in their shares (default: all)",
        metavar="N",
        group=DATA,
    )
    runs: PositiveInt = setting(1, "Number of independent judgments per item", metavar="K", group=DATA)
    replay_format: str | None = setting(
        None,
        f"Format of the verdicts in --replay: {OWN_FORMAT} or {', '.join(REPLY_FORMATS)} (default: {OWN_FORMAT}, then "
        "the formats of the benchmark and common ones, in each reply)",
        metavar="NAME",
        group=DATA,
    )
    replicas: PositiveInt = setting(1, "Number of judge replicas on Ray", metavar="N", group=_RUN)
    address: str | None = setting(
        None,
        "Join the Ray cluster at this host:port, or auto, instead of starting one",
        metavar="HOST:PORT",
        group=_RUN,
    )
    start_timeout_s: PositiveFloat = start_timeout_setting(_RUN)
    concurrency: PositiveInt = setting(
        256, "Maximum number of comparisons in progress at a time", metavar="N", group=_RUN
    )
    out: str | None = out_setting("NAME")
    max_failures: NonNegativeInt = setting(
        0,
        "Maximum number of items without a judgment (no reply, unreadable media, timeout); more give exit status 1. "
        "A reply without a verdict is a judgment",
        metavar="N",
        group=_RESULTS,
    )

    def __post_init__(self) -> None:
        for name in ("replicas", "address"):
            if self.judge_url is not None and getattr(self, name) not in (1, None):
                raise UsageError(f"{format_flag(name)} is of a judge in this run; leave it out with --judge-url")


@settings_class(kw_only=True)
class EvalRun(EvalFlags):
    """Settings of a benchmark run."""

    data: tuple[str, ...] = setting(
        (),
        "Benchmark data: file or folder of the original release, or hub:OWNER/NAME[:CONFIG][@SPLIT]; may be repeated",
        metavar="PATH",
        group=DATA,
    )
    column: tuple[str, ...] = setting(
        (),
        "Column of the data that holds a field of the release under another name; may be repeated",
        metavar="FIELD=COL",
        group=DATA,
    )
    task: tuple[str, ...] = setting(
        (),
        "Task of the benchmark to run; may be repeated (default: all tasks in the data)",
        metavar="NAME",
        group=DATA,
    )
    replay: str | None = setting(
        None,
        'Stored replies to score instead of running a model: JSON lines {"id", "text"} or {"id", "texts": [...]}, or '
        "the files published with PandaLM, JudgeLRM, LLMBar, JudgeBench, GenAI-Bench and others",
        metavar="FILE",
        group=DATA,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.columns  # raises for an invalid --column

    @property
    def columns(self) -> ColumnMapping:
        """Mapping of the columns of the data."""
        return ColumnMapping.from_arguments(self.column)

    @property
    def needs_ray(self) -> bool:
        """Whether judges run as replicas on a Ray cluster instead of in this process."""
        return self.replicas > 1 or self.address is not None

    def build_judge_config(self, out: str) -> JudgeConfig:
        """Build the settings of the judge, with a ledger in the output folder."""
        engine = replace(self.engine_config, ledger=f"{out}/{LEDGER}")
        return JudgeConfig(engine, self.judge_config.settings)

    @property
    def rubrics(self) -> tuple[str, ...]:
        """Rubrics that the user named; published benchmarks use presets."""
        return ()

    def list_reply_formats(self, preferred: Sequence[str], others: bool) -> tuple[str, ...]:
        """List the formats to try for each stored reply.

        Args:
            preferred: Formats of the benchmark.
            others: Whether to try the common formats too.

        Raises:
            UsageError: The format does not exist.
        """
        if self.replay_format is None:
            return list_formats(preferred, others)
        if self.replay_format not in (OWN_FORMAT, *REPLY_FORMATS):
            formats = ", ".join((OWN_FORMAT, *REPLY_FORMATS))
            raise UsageError(f"--replay-format {self.replay_format}: no such format; choose one of {formats}")
        return (self.replay_format,)

    def check_replay(self, protocol: Mapping[str, Any]) -> None:
        """Check that no setting is given that a replay would ignore.

        Args:
            protocol: Defaults of the benchmark.

        Raises:
            UsageError: There is such a setting.
        """
        values = flatten_values(self)
        for name, declared in flatten_settings(type(self)).items():
            defaults = (declared.default, protocol.get(name, declared.default))
            if name not in REPLAY_SETTINGS and values[name] not in defaults:
                raise UsageError(f"--replay runs no model; leave out {format_flag(name)}")

    def check_models(self) -> None:
        """Check the judge and the cluster without starting anything.

        Raises:
            UsageError: The judge does not exist, or nothing answers at the address of the cluster.
        ServiceUnavailableError: No judge service answers at its URL.
        """
        if self.address:
            check_address(self.address)
        if (service := self.find_service(self.concurrency)) is not None:
            check_service_access(service, self.rubrics)
            return
        check_judge(self.judge_config)
        if self.address:
            return
        cluster = preview_local_cluster() if self.needs_ray else None
        if cluster is not None:
            ServiceConfig(self.judge_config, self.replicas).place_on(cluster)
        engines = [self.engine_config] * self.replicas
        check_engine_memory(engines, "the judge", "use fewer --replicas, or a smaller model", self.needs_ray)

    def build_identity(self, benchmark: str, digest: str, replies: str | None) -> dict[str, Any]:
        """Build the settings that determine the results; a run folder holds the results of one identity.

        Args:
            benchmark: Name of the benchmark.
            digest: Digest of the data.
            replies: Digest of the stored replies.
        """
        identity: dict[str, Any] = {"benchmark": benchmark, "data_digest": digest}
        if self.column:
            identity["columns"] = list(self.column)
        if self.judge_url is not None:
            # The service has its own settings.
            return {**identity, "judge": self.judge_url}
        identity |= {"order": self.judge.settings.order, "seed": self.judge.settings.seed}
        if self.replay:
            replay = {"replay_digest": replies, "replay_format": self.replay_format}
            return {**identity, "tasks": list(self.task), "limit": self.limit, **replay}
        engine = self.judge.engine
        # Without tasks, limit and runs: a run that asks for more items or runs continues one that asked for fewer.
        return {
            **identity,
            "judge": identify_model(engine.model),
            "adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge_config.settings),
            "max_model_len": engine.max_model_len,
        }


@settings_class(kw_only=True)
class LabelledRun(EvalRun):
    """Settings of a run over one's own labelled rows."""

    rubric: str = setting(
        "general", "Rubric of rows that name none: preset or TOML file", metavar="NAME", group=JUDGING
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_service(own=("seed",))
        load_rubric(self.rubric)

    @property
    def rubrics(self) -> tuple[str, ...]:
        """Rubrics that the user named."""
        return (self.rubric,)

    def build_identity(self, benchmark: str, digest: str, replies: str | None) -> dict[str, Any]:
        """Build the settings that determine the results, see `EvalRun.build_identity`."""
        return super().build_identity(benchmark, digest, replies) | {"rubric": repr(load_rubric(self.rubric))}
