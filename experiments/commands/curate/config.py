"""Settings of `flex-judge curate`, as flags and YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from flex_judge.alignment.curation.duplicates import MIN_SIMILARITY
from flex_judge.alignment.curation.rows import FIELDS, parse_reference_columns
from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.selection import Selection
from flex_judge.alignment.curation.tokens import SCRIPTED
from flex_judge.alignment.pipeline.judge_service import require_rubric_text
from flex_judge.alignment.tasks import synthetic_teacher as arithmetic_teacher
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.common.data_runs.config import out_setting
from flex_judge.experiments.common.flags import format_flag, make_config, setting
from flex_judge.experiments.common.judge_config import JUDGE_SECTION, JUDGING, MODEL, THINK_TOKENS, ServiceFlags
from flex_judge.judges.engines.remote.probing import name_tokenizer
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import ColumnMapping
from flex_judge.judges.models import identify_model
from flex_judge.judges.models.embedded import BASE
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX
from flex_judge.judges.validation.classes import NonNegativeFloat, NonNegativeInt, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection

_ROWS, _FILTERS, _EXAMPLES, _RESULTS = "rows", "filters", "training examples", "results"
"""Headings in the help."""
SYNTHETIC = "synthetic"
SYNTHETIC_TOKENIZER = BASE
"""Model whose tokenizer counts tokens for the synthetic teacher, which has none."""
DEFAULT_SIMILARITY = 0.8
SYNTHETIC_DEFAULTS = {"pointwise_tokens": 0, "pairwise_tokens": 0, "order": "given", "balance": "all", "remap": 0.0}
"""Defaults for the synthetic teacher. Its rows have the intended mix and order already, and its reasoning is short."""
TEACHER_SECTION = SettingsSection(
    # The teacher gives one plain reply per sample, so voting and budget forcing have no flags. Its rows are text, so
    # the media limits have none either.
    skip=(JUDGE_SECTION.skip - {"max_think_tokens"})
    | {"votes", "vote_confidence", "order", "num_waits", "reason_first", "forced_answer"}
    | {"image_max_pixels", "video_fps", "video_max_pixels", "video_max_frames", "audio_max_seconds"},
    defaults={
        # Teacher and sampling of the published judges (arXiv 2505.18601).
        "model": "nuojohnchen/JudgeLRM-7B",
        "temperature": 0.1,
        "top_p": 0.95,
        "max_think_tokens": THINK_TOKENS,
        "deadline_s": 3600.0,
    },
    choices=JUDGE_SECTION.choices,
)


@settings_class(kw_only=True)
class CurateRun(ServiceFlags):
    """Settings of a curation run."""

    samples: str | None = setting(
        None,
        "Samples of the embedded task, as best_of_n.jsonl of flex-judge best-of-n, to make rows from instead of a FILE",
        metavar="FILE",
        group=_ROWS,
    )
    rows: PositiveInt | None = setting(
        None, "Number of rows to use, from the first (default: all)", metavar="N", group=_ROWS
    )
    column: tuple[str, ...] = setting(
        (),
        f"Column of FILE that holds a field under another name: FIELD is {', '.join(FIELDS)} (answer3_body and so on); "
        "may be repeated, also for scores in several columns, such as score=A and score=B",
        metavar="FIELD=COL",
        group=_ROWS,
    )
    teacher: Literal["model", "synthetic"] = setting(
        "model",
        "Teacher: a judge model, or the synthetic teacher of the embedded task, which changes these defaults: "
        + " ".join(f"{format_flag(name)} {value}" for name, value in SYNTHETIC_DEFAULTS.items()),
        group=MODEL,
    )
    judge: Annotated[JudgeConfig, TEACHER_SECTION]
    concurrency: PositiveInt = setting(
        256, "Maximum number of judgments in progress at a time", metavar="N", group=MODEL
    )
    seeds: PositiveInt = setting(3, "Number of judgments per row; a later run may raise it", metavar="K", group=JUDGING)
    rubric: str | None = setting(
        None,
        "Rubric of the teacher and the examples: preset or TOML file (default: general; synthetic: correctness)",
        metavar="NAME",
        group=JUDGING,
    )
    tolerance: NonNegativeFloat = setting(
        0.0,
        "Maximum difference between a teacher's score and the reference score, in points of the scale",
        metavar="X",
        group=_FILTERS,
    )
    max_similarity: Annotated[float, Interval(ge=MIN_SIMILARITY, le=1)] | None = setting(
        None,
        f"Maximum similarity of two rows (question and answers), {MIN_SIMILARITY} to 1 (default: {DEFAULT_SIMILARITY}; "
        "synthetic: 1)",
        metavar="X",
        group=_FILTERS,
    )
    benchmark: tuple[str, ...] = setting(
        (),
        "Benchmark file; rows that share a question or 13 consecutive words with it are left out; may be repeated",
        metavar="FILE",
        group=_FILTERS,
    )
    examples: Annotated[Selection, SettingsSection(_EXAMPLES, skip=frozenset({"seed"}))]
    listwise_answers: Annotated[int, Ge(3)] = setting(
        4,
        "Number of answers in a listwise example from --samples; rows of a FILE keep all their answers",
        metavar="N",
        group=_EXAMPLES,
    )
    size: PositiveInt | None = setting(
        None,
        "Total number of examples; --pointwise, --pairwise and --listwise then only set the ratio",
        metavar="N",
        group=_EXAMPLES,
    )
    remapped_rubric: str = setting(
        "general_1_5", "Rubric of examples that --remap maps to the 1-5 scale", metavar="NAME", group=_EXAMPLES
    )
    reason_first: bool = setting(
        True,
        "Write examples with the reasoning before the answer; the reverse is the paper's ablation",
        group=_EXAMPLES,
    )
    tokenizer: str | None = setting(
        None,
        f"Model whose tokenizer counts tokens: embedded name, folder or hub id (default: the teacher; synthetic "
        f"or with --judge-url: {SYNTHETIC_TOKENIZER})",
        metavar="MODEL",
        group=_EXAMPLES,
    )
    order_seed: NonNegativeInt = setting(
        0, "Seed of random orders and of the choice of examples for --remap", metavar="N", group=_EXAMPLES
    )
    out: str = out_setting("runs/curate")
    max_failures: NonNegativeInt = setting(
        0, "Maximum number of rows without a judgment; more give exit status 1", metavar="N", group=_RESULTS
    )

    @classmethod
    def complete_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Add the defaults of the synthetic teacher."""
        return {**(SYNTHETIC_DEFAULTS if values.get("teacher") == SYNTHETIC else {}), **values}

    def __post_init__(self) -> None:
        if self.seeds > MAX_SAMPLE_INDEX:
            raise UsageError(f"--seeds must be at most {MAX_SAMPLE_INDEX}, not {self.seeds}")
        if self.samples is not None and not self.is_synthetic:
            raise UsageError(f"--samples are of the embedded task; add --teacher {SYNTHETIC}")
        if not self.is_synthetic and self.seeds > 1 and self.judge.settings.temperature == 0:
            raise UsageError("--seeds above 1 need a --temperature above 0: greedy judgments are all the same")
        if self.is_synthetic and self.judge_url is not None:
            raise UsageError(f"--judge-url is of a model; leave it out with --teacher {SYNTHETIC}")
        if self.column and self.samples is not None:
            raise UsageError("--column refers to a column of FILE; leave it out with --samples")
        _ = self.columns  # raises UsageError for an unknown field
        # The order of the examples has the name of a setting of judges.
        self.check_service(own=("order",))
        _ = self.selection  # raises UsageError if the sizes are invalid
        self._check_rubrics()

    def _check_rubrics(self) -> None:
        require_rubric_text(self.rubric_name)
        scale = str(load_rubric(self.rubric_name).scale)
        if self.is_synthetic and scale != FIVE:
            raise UsageError(f"--rubric {self.rubric_name}: its scale is {scale}; the synthetic teacher needs {FIVE}")
        if scale not in (TEN, FIVE):
            raise UsageError(f"--rubric {self.rubric_name}: its scale is {scale}; choose a rubric with {TEN} or {FIVE}")
        # Checked for every kind of example before the teacher judges thousands of rows.
        response_counts = {2}
        if self.selection.pointwise:
            response_counts.add(1)
        if self.examples.listwise:
            response_counts.add(self.listwise_answers)
        for name in self.rubrics_by_scale.values():
            for response_count in response_counts:
                load_rubric(name).check_response_count(response_count)

    @property
    def is_synthetic(self) -> bool:
        """Whether the teacher is the program of the embedded task."""
        return self.teacher == SYNTHETIC

    @property
    def columns(self) -> ColumnMapping:
        """Mapping of the columns of the rows."""
        return parse_reference_columns(self.column)

    @property
    def rubric_name(self) -> str:
        """Rubric of the teacher."""
        return self.rubric or ("correctness" if self.is_synthetic else "general")

    @property
    def rubrics_by_scale(self) -> dict[str, str]:
        """Rubric of the examples on each scale."""
        scale = str(load_rubric(self.rubric_name).scale)
        # Scores on 1-5 are not remapped, so there is no second rubric.
        return {scale: self.rubric_name} if scale == FIVE else {scale: self.rubric_name, FIVE: self.remapped_rubric}

    @property
    def selection(self) -> Selection:
        """Settings of the selection, with sizes scaled to `size`."""
        spec = self.examples
        pointwise, pairwise, listwise = spec.pointwise, spec.pairwise, spec.listwise
        if self.size is not None and (total := pointwise + pairwise + listwise):
            pointwise, listwise = round(self.size * pointwise / total), round(self.size * listwise / total)
            # Pairs take the rounding error, so that the sizes add up.
            pairwise = self.size - pointwise - listwise
        return replace(spec, pointwise=pointwise, pairwise=pairwise, listwise=listwise, seed=self.order_seed)

    @property
    def similarity_limit(self) -> float:
        """Maximum similarity of two rows.

        Rows of the embedded task may differ in a single digit, so by default the synthetic teacher has no limit.
        """
        if self.max_similarity is not None:
            return self.max_similarity
        return 1.0 if self.is_synthetic else DEFAULT_SIMILARITY

    def find_tokenizer_name(self) -> str:
        """Return the model whose tokenizer counts tokens; a remote teacher's server is asked for it."""
        if self.tokenizer or self.is_synthetic or self.judge_url is not None:
            return self.tokenizer or SYNTHETIC_TOKENIZER
        if self.judge.engine.is_remote:
            return name_tokenizer(self.judge.engine)
        return SCRIPTED if self.judge.engine.engine == "scripted" else self.judge.engine.model

    def build_teacher_run(self, ledger: str | None) -> JudgeRun:
        """Build the judge settings of the teacher: one vote per sample, in the given order."""
        if self.judge_url is not None:
            # The service has its own judge and settings.
            return make_config(
                JudgeRun,
                judge_url=self.judge_url,
                judge_key=self.judge_key,
                rubric=self.rubric_name,
                concurrency=self.concurrency,
            )
        return JudgeRun(
            judge=self.judge,
            max_think_tokens=self.judge.settings.max_think_tokens,
            rubric=self.rubric_name,
            concurrency=self.concurrency,
            ledger=ledger,
        )

    def build_identity(self, source: str, digest: str) -> dict[str, object]:
        """Build the settings that determine the judgments; a run folder holds the judgments of one identity.

        Settings of the curation are not part of it, because they may change between runs of a folder.
        """
        identity: dict[str, object] = {
            "source": source,
            "source_digest": digest,
            "teacher": arithmetic_teacher.TEACHER_NAME,
        }
        # The synthetic teacher has no settings.
        if self.is_synthetic:
            return identity
        if self.column:
            identity["columns"] = list(self.column)
        if self.judge_url is not None:
            return identity | {
                "teacher": self.judge_url,
                "judging": f"as the service at {self.judge_url} is set up",
                "rubric": repr(load_rubric(self.rubric_name)),
            }
        engine = self.judge.engine
        return identity | {
            "teacher": identify_model(engine.model),
            "adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge.settings),
            "rubric": repr(load_rubric(self.rubric_name)),
            "max_model_len": engine.max_model_len,
        }

    def describe_curation(self) -> dict[str, object]:
        """Describe the settings of the curation for summary and card."""
        return {
            "tolerance": self.tolerance,
            "max_similarity": self.similarity_limit,
            "benchmarks": list(self.benchmark),
            **asdict(self.selection),
            "reason_first": self.reason_first,
        }
