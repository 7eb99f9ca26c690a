"""The settings of `flex-judge curate`, as flags and YAML."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from flex_judge.alignment.curation.duplicates import LEAST
from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.selection import Balance, Order, Selection
from flex_judge.alignment.curation.tokens import SCRIPTED
from flex_judge.alignment.tasks import synthetic_teacher as arithmetic_teacher
from flex_judge.experiments.commands.judge.config import THINK_TOKENS, JudgeRun
from flex_judge.experiments.common.data_runs.config import out_folder
from flex_judge.experiments.common.flags import check_least, setting
from flex_judge.judges.engines import MODEL_ENGINES
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import identified
from flex_judge.judges.models.embedded import BASE
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX

_ROWS, _TEACHER = "the rows", "the teacher, which judges them"
_KEPT, _SAMPLES, _RESULTS = "which judgments are kept", "which of them become samples", "results"
"""Headings of the help."""
MODEL, PROGRAM = "model", "arithmetic"
TOKENIZER = BASE
"""Whose tokenizer counts where the teacher is no model."""
SIMILARITY = 0.8
_DEFAULT = Selection()
_OF_TASK = Selection(single_tokens=0, pair_tokens=0, order="given", balance="all", remap=0)
"""The embedded task's rows come in the wanted mix and order, and their reasoning is short."""


@dataclass(frozen=True)
class CurateRun:
    """Settings of a run."""

    samples: str | None = setting(
        None,
        "make rows of the embedded task from this best_of_n.jsonl of flex-judge best-of-n, instead of a FILE",
        metavar="FILE",
        group=_ROWS,
    )
    rows: int | None = setting(None, "take the first N rows (default: all)", metavar="N", group=_ROWS)
    teacher: str = setting(
        MODEL,
        "a judge model, or the program that knows the embedded task (synthetic)",
        choices=(MODEL, PROGRAM),
        group=_TEACHER,
    )
    model: str = setting("nuojohnchen/JudgeLRM-7B", "the judge model", metavar="MODEL", group=_TEACHER)
    adapter: str | None = setting(None, "LoRA adapter on it: folder or hub id", metavar="MODEL", group=_TEACHER)
    engine: str = setting(
        "auto", "what runs it; auto is vllm where installed", choices=("auto", *MODEL_ENGINES), group=_TEACHER
    )
    max_model_len: int = setting(8192, "prompt and reply together, in tokens", metavar="N", group=_TEACHER)
    max_batch: int = setting(64, "requests that are computed at the same time", metavar="N", group=_TEACHER)
    concurrency: int = setting(256, "judgments under way at a time", metavar="N", group=_TEACHER)
    seeds: int = setting(3, "judgments of each row; more may be asked for later", metavar="K", group=_TEACHER)
    temperature: float = setting(0.1, "of its sampling", metavar="T", group=_TEACHER)
    top_p: float = setting(0.95, "of its sampling", metavar="P", group=_TEACHER)
    max_think_tokens: int = setting(THINK_TOKENS, "budget of its thinking", metavar="N", group=_TEACHER)
    max_answer_tokens: int = setting(64, "room for its answer", metavar="N", group=_TEACHER)
    deadline: float = setting(3600.0, "seconds after which a judgment is given up", metavar="S", group=_TEACHER)
    seed: int = setting(0, "of its sampling; another one is another teacher", metavar="N", group=_TEACHER)
    rubric: str | None = setting(
        None,
        "by which it judges, and the samples do: a preset or TOML file (default: general; arithmetic: correctness)",
        metavar="NAME",
        group=_TEACHER,
    )
    tolerance: float = setting(0.0, "by how much a score may differ from the reference", metavar="X", group=_KEPT)
    max_similarity: float | None = setting(
        None,
        f"how alike question and answers of two rows may be, {LEAST} to 1 (default: {SIMILARITY}; arithmetic: 1)",
        metavar="X",
        group=_KEPT,
    )
    benchmark: tuple[str, ...] = setting(
        (),
        "leave out rows that share a question, or 13 words in a row, with this file; may be repeated",
        metavar="FILE",
        group=_KEPT,
    )
    singles: int = setting(_DEFAULT.singles, "samples of one answer", metavar="N", group=_SAMPLES)
    pairs: int = setting(_DEFAULT.pairs, "samples of two answers", metavar="N", group=_SAMPLES)
    batches: int = setting(
        _DEFAULT.batches, "samples of more answers; the published judges have none", metavar="N", group=_SAMPLES
    )
    batch_answers: int = setting(
        4, "answers of a batch, with --samples; rows of a FILE have as many as they have", metavar="N", group=_SAMPLES
    )
    size: int | None = setting(
        None,
        "samples in all: scales --singles, --pairs and --batches, which give the ratio",
        metavar="N",
        group=_SAMPLES,
    )
    single_tokens: int | None = setting(
        None,
        f"a single's reasoning is longer than this (default: {_DEFAULT.single_tokens}; arithmetic: 0)",
        metavar="N",
        group=_SAMPLES,
    )
    pair_tokens: int | None = setting(
        None,
        f"a pair's reasoning is longer than this (default: {_DEFAULT.pair_tokens}; arithmetic: 0)",
        metavar="N",
        group=_SAMPLES,
    )
    order: Order | None = setting(
        None,
        f"which reasoning is taken first (default: {_DEFAULT.order}; arithmetic: {_OF_TASK.order})",
        group=_SAMPLES,
    )
    balance: Balance | None = setting(
        None,
        "balance winners of pairs, or scores of singles too "
        f"(default: {_DEFAULT.balance}; arithmetic: {_OF_TASK.balance})",
        group=_SAMPLES,
    )
    held_out: int = setting(_DEFAULT.held_out, "samples that are kept apart", metavar="N", group=_SAMPLES)
    remap: float | None = setting(
        None,
        f"share of samples whose scores are mapped from {TEN} to {FIVE}: halved, rounded up "
        f"(default: {_DEFAULT.remap}; arithmetic: 0)",
        metavar="SHARE",
        group=_SAMPLES,
    )
    remapped_rubric: str = setting("general_1_5", "rubric of those samples", metavar="NAME", group=_SAMPLES)
    reason_first: bool = setting(
        True, "samples that reason, then answer; the other way round is the paper's ablation", group=_SAMPLES
    )
    tokenizer: str | None = setting(
        None,
        f"counts tokens: a model's name, folder or hub id (default: the teacher's; arithmetic: {TOKENIZER})",
        metavar="MODEL",
        group=_SAMPLES,
    )
    order_seed: int = setting(0, "decides what is left to the lot", metavar="N", group=_SAMPLES)
    out: str = out_folder("runs/curate")
    max_failures: int = setting(
        0, "rows of which the teacher may give no judgment before the exit status is 1", metavar="N", group=_RESULTS
    )

    def __post_init__(self) -> None:
        least = {"rows": 1, "seeds": 1, "size": 1, "tolerance": 0, "max_failures": 0, "order_seed": 0}
        check_least(self, least | {"singles": 0, "pairs": 0, "single_tokens": 0, "pair_tokens": 0, "held_out": 0})
        check_least(self, {"batches": 0, "batch_answers": 3})
        if self.max_similarity is not None and not LEAST <= self.max_similarity <= 1:
            raise UsageError(f"--max-similarity must be from {LEAST} to 1, not {self.max_similarity}")
        if self.seeds > MAX_SAMPLE_INDEX:
            raise UsageError(f"--seeds must be at most {MAX_SAMPLE_INDEX}, not {self.seeds}")
        if self.samples is not None and not self.is_program:
            raise UsageError(f"--samples are rows of the embedded task, for --teacher {PROGRAM}")
        if not self.is_program and self.seeds > 1 and self.temperature == 0:
            raise UsageError("--seeds above 1 need a --temperature above 0: greedy judgments are all the same")
        _ = self.selection
        _ = self.teacher_run(None)
        self._check_rubrics()

    def _check_rubrics(self) -> None:
        scale = str(load_rubric(self.rubric_name).scale)
        if self.is_program and scale != FIVE:
            raise UsageError(f"--rubric {self.rubric_name}: the arithmetic teacher scores on {FIVE}, not on {scale}")
        if scale not in (TEN, FIVE):
            raise UsageError(f"--rubric {self.rubric_name}: its scale must be {TEN} or {FIVE}, not {scale}")
        sizes = {2, *([1] if self.selection.singles else []), *([self.batch_answers] if self.batches else [])}
        for name in self.rubrics.values():
            for responses in sizes:
                load_rubric(name).check(responses)

    @property
    def is_program(self) -> bool:
        """Whether the teacher is the program for the embedded task."""
        return self.teacher == PROGRAM

    @property
    def rubric_name(self) -> str:
        return self.rubric or ("correctness" if self.is_program else "general")

    @property
    def rubrics(self) -> dict[str, str]:
        """Scale of samples -> their rubric."""
        scale = str(load_rubric(self.rubric_name).scale)
        return {scale: self.rubric_name} if scale == FIVE else {scale: self.rubric_name, FIVE: self.remapped_rubric}

    @property
    def selection(self) -> Selection:
        usual = _OF_TASK if self.is_program else _DEFAULT
        chosen = {name: getattr(self, name) for name in ("single_tokens", "pair_tokens", "order", "balance", "remap")}
        singles, pairs, batches = self.singles, self.pairs, self.batches
        if self.size is not None and (total := singles + pairs + batches):
            singles, batches = round(self.size * singles / total), round(self.size * batches / total)
            pairs = self.size - singles - batches
        given = {name: value for name, value in chosen.items() if value is not None}
        given |= {"singles": singles, "pairs": pairs, "batches": batches}
        return replace(usual, held_out=self.held_out, seed=self.order_seed, **given)

    @property
    def similarity(self) -> float:
        """How alike two rows may be. Of the embedded task's a single digit can be all that matters."""
        return (1.0 if self.is_program else SIMILARITY) if self.max_similarity is None else self.max_similarity

    @property
    def tokenizer_name(self) -> str:
        if self.tokenizer or self.is_program:
            return self.tokenizer or TOKENIZER
        return SCRIPTED if self.engine == "scripted" else self.model

    def teacher_run(self, ledger: str | None) -> JudgeRun:
        """How the teacher judges: one reply for each draw, the answers as they are given."""
        return JudgeRun(
            model=self.model,
            adapter=self.adapter,
            engine=self.engine,
            max_model_len=self.max_model_len,
            max_batch=self.max_batch,
            temperature=self.temperature,
            top_p=self.top_p,
            max_think_tokens=self.max_think_tokens,
            max_answer_tokens=self.max_answer_tokens,
            deadline=self.deadline,
            seed=self.seed,
            rubric=self.rubric_name,
            concurrency=self.concurrency,
            ledger=ledger,
        )

    def identity(self, source: str, digest: str) -> dict[str, object]:
        """What determines the teacher's work, which a folder holds of one kind. How it is curated may change."""
        told: dict[str, object] = {"source": source, "source_digest": digest, "teacher": arithmetic_teacher.NAME}
        if self.is_program:
            return told
        return told | {
            "teacher": identified(self.model),
            "adapter": identified(self.adapter),
            "engine": self.engine,
            "judging": repr(self.teacher_run(None).settings_for(self.model)),
            "rubric": repr(load_rubric(self.rubric_name)),
            "max_model_len": self.max_model_len,
        }

    def told(self) -> dict[str, object]:
        """The settings of curation, for summary and card."""
        return {
            "tolerance": self.tolerance,
            "max_similarity": self.similarity,
            "benchmarks": list(self.benchmark),
            **asdict(self.selection),
            "reason_first": self.reason_first,
        }
