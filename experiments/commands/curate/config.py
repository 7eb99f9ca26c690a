"""The settings of `flex-judge curate`, as flags and YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated, Any, Literal

from annotated_types import Ge, Interval

from flex_judge.alignment.curation.duplicates import MIN_SIMILARITY
from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.selection import Selection
from flex_judge.alignment.curation.tokens import SCRIPTED
from flex_judge.alignment.tasks import synthetic_teacher as arithmetic_teacher
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.common.data_runs.config import out_setting
from flex_judge.experiments.common.flags import format_flag, setting
from flex_judge.experiments.common.judge_config import JUDGE_SECTION, JUDGING, MODEL, THINK_TOKENS
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import identify_model
from flex_judge.judges.models.embedded import BASE
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX
from flex_judge.judges.validation.classes import NonNegativeFloat, NonNegativeInt, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection

_ROWS, _KEPT, _EXAMPLES, _RESULTS = "rows", "filters", "training examples", "results"
"""Headings of the help."""
SYNTHETIC = "synthetic"
SYNTHETIC_TOKENIZER = BASE
"""Whose tokenizer counts where the teacher is no model."""
DEFAULT_SIMILARITY = 0.8
SYNTHETIC_DEFAULTS = {"pointwise_tokens": 0, "pairwise_tokens": 0, "order": "given", "balance": "all", "remap": 0.0}
"""The embedded task's rows come in the wanted mix and order, and their reasoning is short."""
TEACHER_SECTION = SettingsSection(
    skip=(JUDGE_SECTION.skip - {"max_think_tokens"})
    | {"votes", "vote_confidence", "order", "num_waits", "reason_first", "forced_answer"}
    | {"image_max_pixels", "video_fps", "video_max_pixels", "video_max_frames", "audio_max_seconds"},
    defaults={
        "model": "nuojohnchen/JudgeLRM-7B",
        "temperature": 0.1,
        "top_p": 0.95,
        "max_think_tokens": THINK_TOKENS,
        "deadline_s": 3600.0,
    },
    choices=JUDGE_SECTION.choices,
)


@settings_class(kw_only=True)
class CurateRun:
    """Settings of a run."""

    samples: str | None = setting(
        None,
        "Make rows of the embedded task from this best_of_n.jsonl of flex-judge best-of-n, instead of a FILE",
        metavar="FILE",
        group=_ROWS,
    )
    rows: PositiveInt | None = setting(None, "Take the first N rows (default: all)", metavar="N", group=_ROWS)
    teacher: Literal["model", "synthetic"] = setting(
        "model",
        "Teacher: a judge model, or the synthetic teacher of the embedded task, which has the defaults "
        + " ".join(f"{format_flag(name)} {value}" for name, value in SYNTHETIC_DEFAULTS.items()),
        group=MODEL,
    )
    judge: Annotated[JudgeConfig, TEACHER_SECTION]
    concurrency: PositiveInt = setting(
        256, "Maximum number of judgments in progress at a time", metavar="N", group=MODEL
    )
    seeds: PositiveInt = setting(
        3, "Number of judgments per row; a later run may ask for more", metavar="K", group=JUDGING
    )
    rubric: str | None = setting(
        None,
        "Rubric of the teacher and of the examples: a preset or TOML file (default: general; synthetic: correctness)",
        metavar="NAME",
        group=JUDGING,
    )
    tolerance: NonNegativeFloat = setting(
        0.0, "Maximum difference between a score and the reference", metavar="X", group=_KEPT
    )
    max_similarity: Annotated[float, Interval(ge=MIN_SIMILARITY, le=1)] | None = setting(
        None,
        f"Maximum similarity between question and answers of two rows, {MIN_SIMILARITY} to 1 (default: {DEFAULT_SIMILARITY}; "
        "synthetic: 1)",
        metavar="X",
        group=_KEPT,
    )
    benchmark: tuple[str, ...] = setting(
        (),
        "Leave out rows that share a question, or 13 words in a row, with this file; may be repeated",
        metavar="FILE",
        group=_KEPT,
    )
    examples: Annotated[Selection, SettingsSection(_EXAMPLES, skip=frozenset({"seed"}))]
    listwise_answers: Annotated[int, Ge(3)] = setting(
        4,
        "Number of answers in a listwise example made from --samples; rows of a FILE keep theirs",
        metavar="N",
        group=_EXAMPLES,
    )
    size: PositiveInt | None = setting(
        None,
        "Number of examples in all; scales --pointwise, --pairwise and --listwise, which give the ratio",
        metavar="N",
        group=_EXAMPLES,
    )
    remapped_rubric: str = setting("general_1_5", "Rubric of the remapped examples", metavar="NAME", group=_EXAMPLES)
    reason_first: bool = setting(
        True, "Write examples that reason, then answer; the reverse is the paper's ablation", group=_EXAMPLES
    )
    tokenizer: str | None = setting(
        None,
        f"Model whose tokenizer is used: name, folder or hub id (default: the teacher's; synthetic: {SYNTHETIC_TOKENIZER})",
        metavar="MODEL",
        group=_EXAMPLES,
    )
    order_seed: NonNegativeInt = setting(
        0, "Seed of random orders and of which examples change their scale", metavar="N", group=_EXAMPLES
    )
    out: str = out_setting("runs/curate")
    max_failures: NonNegativeInt = setting(
        0, "Number of rows without a judgment above which the exit status is 1", metavar="N", group=_RESULTS
    )

    @classmethod
    def complete_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Add the defaults of the synthetic teacher."""
        return {**(SYNTHETIC_DEFAULTS if values.get("teacher") == SYNTHETIC else {}), **values}

    def __post_init__(self) -> None:
        if self.seeds > MAX_SAMPLE_INDEX:
            raise UsageError(f"--seeds must be at most {MAX_SAMPLE_INDEX}, not {self.seeds}")
        if self.samples is not None and not self.is_synthetic:
            raise UsageError(f"--samples are rows of the embedded task, for --teacher {SYNTHETIC}")
        if not self.is_synthetic and self.seeds > 1 and self.judge.settings.temperature == 0:
            raise UsageError("--seeds above 1 need a --temperature above 0: greedy judgments are all the same")
        _ = self.selection
        self._check_rubrics()

    def _check_rubrics(self) -> None:
        scale = str(load_rubric(self.rubric_name).scale)
        if self.is_synthetic and scale != FIVE:
            raise UsageError(f"--rubric {self.rubric_name}: the synthetic teacher scores on {FIVE}, not on {scale}")
        if scale not in (TEN, FIVE):
            raise UsageError(f"--rubric {self.rubric_name}: its scale must be {TEN} or {FIVE}, not {scale}")
        sizes = {
            2,
            *([1] if self.selection.pointwise else []),
            *([self.listwise_answers] if self.examples.listwise else []),
        }
        for name in self.rubrics_by_scale.values():
            for responses in sizes:
                load_rubric(name).check_response_count(responses)

    @property
    def is_synthetic(self) -> bool:
        """Whether the teacher is the program for the embedded task."""
        return self.teacher == SYNTHETIC

    @property
    def rubric_name(self) -> str:
        return self.rubric or ("correctness" if self.is_synthetic else "general")

    @property
    def rubrics_by_scale(self) -> dict[str, str]:
        """Scale of samples -> their rubric."""
        scale = str(load_rubric(self.rubric_name).scale)
        return {scale: self.rubric_name} if scale == FIVE else {scale: self.rubric_name, FIVE: self.remapped_rubric}

    @property
    def selection(self) -> Selection:
        """How many examples there are, and which ones."""
        chosen = self.examples
        pointwise, pairwise, listwise = chosen.pointwise, chosen.pairwise, chosen.listwise
        if self.size is not None and (total := pointwise + pairwise + listwise):
            pointwise, listwise = round(self.size * pointwise / total), round(self.size * listwise / total)
            pairwise = self.size - pointwise - listwise
        return replace(chosen, pointwise=pointwise, pairwise=pairwise, listwise=listwise, seed=self.order_seed)

    @property
    def similarity_limit(self) -> float:
        """How alike two rows may be. Of the embedded task's a single digit can be all that matters."""
        return (
            (1.0 if self.is_synthetic else DEFAULT_SIMILARITY) if self.max_similarity is None else self.max_similarity
        )

    @property
    def tokenizer_name(self) -> str:
        if self.tokenizer or self.is_synthetic:
            return self.tokenizer or SYNTHETIC_TOKENIZER
        return SCRIPTED if self.judge.engine.engine == "scripted" else self.judge.engine.model

    def build_teacher_run(self, ledger: str | None) -> JudgeRun:
        """How the teacher judges: one reply for each draw, the answers as they are given."""
        return JudgeRun(
            judge=self.judge,
            max_think_tokens=self.judge.settings.max_think_tokens,
            rubric=self.rubric_name,
            concurrency=self.concurrency,
            ledger=ledger,
        )

    def build_identity(self, source: str, digest: str) -> dict[str, object]:
        """What determines the teacher's work, which a folder holds of one kind. How it is curated may change."""
        told: dict[str, object] = {
            "source": source,
            "source_digest": digest,
            "teacher": arithmetic_teacher.TEACHER_NAME,
        }
        if self.is_synthetic:
            return told
        engine = self.judge.engine
        return told | {
            "teacher": identify_model(engine.model),
            "adapter": identify_model(engine.adapter),
            "engine": engine.engine,
            "judging": repr(self.judge.settings),
            "rubric": repr(load_rubric(self.rubric_name)),
            "max_model_len": engine.max_model_len,
        }

    def describe_curation(self) -> dict[str, object]:
        """The settings of curation, for summary and card."""
        return {
            "tolerance": self.tolerance,
            "max_similarity": self.similarity_limit,
            "benchmarks": list(self.benchmark),
            **asdict(self.selection),
            "reason_first": self.reason_first,
        }
