"""Settings of `flex-judge judge`."""

from __future__ import annotations

from dataclasses import replace

from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.judge_config import JUDGING, MODEL, RESULTS, JudgeFlags
from flex_judge.judges.conversations.messages import View
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.io.files import FIELDS
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

ROWS = "rows"
"""Group heading in the help."""


@settings_class(kw_only=True)
class JudgeRun(JudgeFlags):
    """Settings of a run over comparisons."""

    rubric: str = setting(
        "general", "Rubric of comparisons that name none: preset or TOML file", metavar="NAME", group=JUDGING
    )
    view: View = setting(
        "full",
        "What the judge sees of a response with several messages, in rows that name no view: all of it, or the final "
        "answer",
        metavar="VIEW",
        group=JUDGING,
    )
    column: tuple[str, ...] = setting(
        (),
        f"Column of FILE that holds a field under another name: FIELD is {', '.join(FIELDS)}; may be repeated, also "
        "for one list, such as responses=A and responses=B",
        metavar="FIELD=COL",
        group=ROWS,
    )
    concurrency: PositiveInt = setting(
        256, "Maximum number of comparisons in progress at a time", metavar="N", group=MODEL
    )
    out: str | None = setting(
        None,
        "Output file for judgments, .jsonl or .parquet; an existing run in it is resumed (default: standard output)",
        metavar="FILE",
        group=RESULTS,
    )
    ledger: str | None = setting(
        None, "Ledger that records every generation (default: next to --out)", metavar="FILE", group=RESULTS
    )
    no_ledger: bool = setting(False, "Do not record generations, only judgments", group=RESULTS)
    replay: str | None = setting(
        None,
        "Ledger to read generations from, instead of running a model",
        metavar="LEDGER",
        group=RESULTS,
    )
    max_failures: NonNegativeInt = setting(
        0, "Maximum number of comparisons without a score; more give exit status 1", metavar="N", group=RESULTS
    )

    def __post_init__(self) -> None:
        _ = self.columns  # raises for an invalid --column before any work is done
        self.check_service()
        for name in ("ledger", "no_ledger", "replay"):
            if self.judge_url is not None and getattr(self, name):
                raise UsageError(f"{format_flag(name)} is of a judge in this run; leave it out with --judge-url")
        if self.replay and (self.ledger or self.no_ledger):
            raise UsageError("--replay reads a ledger and writes none; leave out --ledger and --no-ledger")
        if self.ledger and self.no_ledger:
            raise UsageError("--ledger and --no-ledger exclude each other; leave one out")

    @property
    def columns(self) -> ColumnMapping:
        """Mapping of the columns of a file."""
        return ColumnMapping.from_arguments(self.column, FIELDS)

    @property
    def engine_config(self) -> EngineConfig:
        """Engine of the judge with its ledger; for a replay, the engine that reads the ledger."""
        if self.replay:
            # The replay engine takes the ledger in place of a model, and learns model and profile from it.
            return EngineConfig(self.replay, "replay", max_model_len=self.judge.engine.max_model_len)
        ledger = self.ledger or (f"{self.out}.ledger" if self.out and not self.no_ledger else None)
        return replace(self.judge.engine, ledger=ledger)
