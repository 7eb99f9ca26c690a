"""Conversion of teacher judgments to training examples.

The teacher is a model that judges each row several times, or the synthetic teacher, a program for the embedded task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.curation.examples import CountTokens, TrainingExample
from flex_judge.alignment.curation.rows import DropRecord, ReferenceRow, RowFault
from flex_judge.alignment.curation.scales import FIVE
from flex_judge.alignment.tasks import synthetic_teacher
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, Verdict
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX, Comparison, Message

NO_END, NO_ANSWER = "unfinished reasoning", "no answer without constrained decoding"
NO_REASONING, OFF_LABELS = "no reasoning", "score without a label on the scale"
_STATUS_REASONS = {
    Status.UNPARSEABLE: NO_ANSWER,
    Status.TRUNCATED: "unfinished answer",
    Status.TIMEOUT: "timeout",
    Status.ENGINE_LOST: "engine lost",
    Status.OVERLONG: "prompt too long for the teacher",
    Status.INVALID_INPUT: "input that cannot be judged",
    Status.FAILED: "unexpected error",
}
_FORCED_REASONS = {"budget": NO_END, "early_end": NO_END, "no_answer": NO_ANSWER}


@dataclass(frozen=True)
class TeacherRow:
    """Request for one teacher judgment of a row; a `JudgeableRow` of `flex_judge.experiments.commands.judge.run`."""

    reference: ReferenceRow
    sample_index: int
    rubric: str

    @property
    def id(self) -> str:
        """Identifier of the judgment."""
        return make_judgment_id(self.reference.id, self.sample_index)

    @property
    def where(self) -> str:
        """File, row and sample index, for messages."""
        return f"{self.reference.where}, sample {self.sample_index}"

    def load_comparison(self) -> Comparison:
        """Build the comparison of the answers.

        The judge samples one vote per comparison. The sample index makes the votes of one row differ.
        """
        return Comparison(
            id=self.id,
            prompt=(Message("user", self.reference.question),),
            responses=self.reference.answers,
            rubric=self.rubric,
            sample_index=self.sample_index,
        )


def make_judgment_id(reference: str, sample_index: int) -> str:
    """Make the identifier of a judgment from the identifier of its row and the sample index."""
    return f"{reference}/{sample_index}"


def parse_judgment_id(id: str) -> tuple[str, int] | None:
    """Split the identifier of a judgment into row identifier and sample index.

    Returns:
        Both parts, or None if the identifier has another form.
    """
    reference, _, sample_index = id.rpartition("/")
    if reference and sample_index.isdecimal() and int(sample_index) <= MAX_SAMPLE_INDEX:
        return reference, int(sample_index)
    return None


@dataclass
class TeacherOutput:
    """Training examples of a teacher, and records of the judgments that could not be used."""

    examples: list[TrainingExample]
    dropped: list[DropRecord]
    rows_without_example: int = 0
    """Number of rows without a usable judgment."""


def convert_judgments(
    references: Sequence[ReferenceRow],
    judgments: Mapping[str, Judgment],
    samples_per_row: int,
    rubric: Rubric,
    count: CountTokens,
    failures: Mapping[str, str],
) -> TeacherOutput:
    """Convert a model's judgments to training examples.

    Args:
        references: Judged rows.
        judgments: Judgments by identifier, see `make_judgment_id`.
        samples_per_row: Number of judgments per row.
        rubric: Rubric of the judgments.
        count: Function that counts tokens.
        failures: Reason for each judgment that failed, by identifier.
    """
    output = TeacherOutput([], [])
    for reference in references:
        usable = 0
        for sample_index in range(samples_per_row):
            judgment_id = make_judgment_id(reference.id, sample_index)
            if judgment_id not in judgments:
                reason = failures.get(judgment_id, "no judgment is stored")
                detail = f"{reference.where}, sample {sample_index}: {reason}"
                output.dropped.append(DropRecord(reference.row, "not judged", detail))
                continue
            example = _convert_judgment(reference, sample_index, judgments[judgment_id], rubric)
            if isinstance(example, DropRecord):
                output.dropped.append(example)
            else:
                output.examples.append(example)
                usable += 1
        if not usable:
            output.rows_without_example += 1
    return replace(output, examples=add_token_counts(output.examples, count))


def judge_with_program(references: Sequence[ReferenceRow], count: CountTokens) -> TeacherOutput:
    """Judge rows of the embedded task with the synthetic teacher and convert its judgments to training examples.

    Args:
        references: Rows to judge. Rows that are not of the embedded task are dropped.
        count: Function that counts tokens.
    """
    output = TeacherOutput([], [])
    for reference in references:
        try:
            reasoning, scores = synthetic_teacher.judge_answers(reference.question, reference.answers)
        except UsageError as e:
            output.dropped.append(DropRecord(reference.row, RowFault.NOT_THE_TASK, f"{reference.where}: {e}"))
            output.rows_without_example += 1
            continue
        output.examples.append(
            TrainingExample(
                reference,
                reasoning,
                scores=tuple(map(float, scores)),
                scale=FIVE,
                tokens=0,
                teacher=synthetic_teacher.TEACHER_NAME,
            )
        )
    return replace(output, examples=add_token_counts(output.examples, count))


def add_token_counts(examples: Sequence[TrainingExample], count: CountTokens) -> list[TrainingExample]:
    """Set the reasoning length of examples, counted in one batch."""
    counts = count([example.reasoning for example in examples])
    return [replace(example, tokens=tokens) for example, tokens in zip(examples, counts, strict=True)]


def _convert_judgment(
    reference: ReferenceRow, sample_index: int, judgment: Judgment, rubric: Rubric
) -> TrainingExample | DropRecord:
    def record_drop(reason: str, detail: str) -> DropRecord:
        return DropRecord(reference.row, reason, f"{reference.where}, sample {sample_index}: {detail}")

    vote: Verdict = judgment.votes[0]
    # A forced answer does not follow from the reasoning, so it is a bad example even if its scores are right.
    if vote.forced_answer is not None:
        return record_drop(
            _FORCED_REASONS[vote.forced_answer], f"the answer was forced by constrained decoding ({vote.forced_answer})"
        )
    if vote.scores is None:
        return record_drop(_STATUS_REASONS[vote.status], vote.detail)
    if not vote.reasoning.strip():
        return record_drop(NO_REASONING, "the teacher answered without reasoning")
    # A score such as 7.5 lies within the scale, but the judge is trained to answer with labels only.
    if not set(vote.scores) <= {float(label) for label in rubric.labels}:
        scores = ", ".join(f"{score:g}" for score in vote.scores)
        return record_drop(OFF_LABELS, f"scores {scores}; expected labels of the scale {rubric.scale}")
    return TrainingExample(
        reference,
        vote.reasoning,
        scores=vote.scores,
        scale=str(rubric.scale),
        tokens=0,
        teacher=judgment.model,
        sample_index=sample_index,
    )
