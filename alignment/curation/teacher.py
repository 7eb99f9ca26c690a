"""The teacher's judgments as training examples: a model's, several draws of each row, or those of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.curation.examples import CountTokens, TrainingExample
from flex_judge.alignment.curation.rows import DropRecord, ReferenceRow, RowFault
from flex_judge.alignment.curation.scales import FIVE
from flex_judge.alignment.tasks import synthetic_teacher as arithmetic_teacher
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, Verdict
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import MAX_SAMPLE_INDEX, Comparison, Message

NO_END, NO_ANSWER = "reasoning without end", "no answer of its own"
NO_REASONING, OFF_LABELS = "no reasoning", "score that the scale has no label for"
_WORDS = {
    Status.UNPARSEABLE: NO_ANSWER,
    Status.TRUNCATED: "answer without end",
    Status.TIMEOUT: "no reply in time",
    Status.ENGINE_LOST: "engine lost",
    Status.OVERLONG: "prompt too long for the teacher",
}
_FORCED = {"budget": NO_END, "early_end": NO_END, "no_answer": NO_ANSWER}


@dataclass(frozen=True)
class TeacherRow:
    """One judgment to be asked for: a row of the source, see `flex_judge.experiments.commands.judge.run.Row`."""

    reference: ReferenceRow
    sample_index: int
    rubric: str

    @property
    def id(self) -> str:
        return make_judgment_id(self.reference.id, self.sample_index)

    @property
    def where(self) -> str:
        return f"{self.reference.where}, sample {self.sample_index}"

    def load_comparison(self) -> Comparison:
        """Question and answers as they are given: the judge draws one vote, and another one for each draw."""
        return Comparison(
            self.id, (Message("user", self.reference.question),), self.reference.answers, self.rubric, self.sample_index
        )


def make_judgment_id(reference: str, sample_index: int) -> str:
    return f"{reference}/{sample_index}"


def parse_judgment_id(id: str) -> tuple[str, int] | None:
    """The reference and the draw that a judgment's id names; None for an id of another form."""
    reference, _, sample_index = id.rpartition("/")
    return (
        (reference, int(sample_index))
        if reference and sample_index.isdecimal() and int(sample_index) <= MAX_SAMPLE_INDEX
        else None
    )


@dataclass
class TeacherOutput:
    """What a teacher gave."""

    examples: list[TrainingExample]
    dropped: list[DropRecord]
    """Replies that teach nothing, and why."""
    lost: int = 0
    """Rows without a single training example."""


def convert_judgments(
    references: Sequence[ReferenceRow],
    judgments: dict[str, Judgment],
    samples_per_row: int,
    rubric: Rubric,
    count: CountTokens,
    lost: dict[str, str],
) -> TeacherOutput:
    """The training examples of a model's judgments.

    Args:
        judgments: by `judgment_id`.
        samples_per_row: how many of each row are looked at.
        rubric: the one that was judged by.
        lost: id of a judgment that could not be made -> why.
    """
    taught = TeacherOutput([], [])
    for reference in references:
        found = 0
        for sample_index in range(samples_per_row):
            name = make_judgment_id(reference.id, sample_index)
            if name not in judgments:
                why = lost.get(name, "no judgment of it is stored")
                taught.dropped.append(
                    DropRecord(reference.row, "not judged", f"{reference.where}, sample {sample_index}: {why}")
                )
                continue
            example = _convert_judgment(reference, sample_index, judgments[name], rubric)
            if isinstance(example, DropRecord):
                taught.dropped.append(example)
            else:
                taught.examples.append(example)
                found += 1
        taught.lost += not found
    return replace(taught, examples=add_token_counts(taught.examples, count))


def judge_with_program(references: Sequence[ReferenceRow], count: CountTokens) -> TeacherOutput:
    """The training examples that the program for the embedded task gives: synthetic, and right wherever its reading
    is."""
    taught = TeacherOutput([], [])
    for reference in references:
        try:
            reasoning, scores = arithmetic_teacher.judge_answers(reference.question, reference.answers)
        except UsageError as e:
            taught.dropped.append(DropRecord(reference.row, RowFault.NOT_THE_TASK, f"{reference.where}: {e}"))
            taught.lost += 1
            continue
        given = tuple(map(float, scores))
        taught.examples.append(TrainingExample(reference, reasoning, given, FIVE, 0, arithmetic_teacher.TEACHER_NAME))
    return replace(taught, examples=add_token_counts(taught.examples, count))


def add_token_counts(examples: Sequence[TrainingExample], count: CountTokens) -> list[TrainingExample]:
    """The training examples with the tokens of their reasoning."""
    found = count([example.reasoning for example in examples])
    return [replace(example, tokens=tokens) for example, tokens in zip(examples, found, strict=True)]


def _convert_judgment(
    reference: ReferenceRow, sample_index: int, judgment: Judgment, rubric: Rubric
) -> TrainingExample | DropRecord:
    def record_drop(reason: str, detail: str) -> DropRecord:
        return DropRecord(reference.row, reason, f"{reference.where}, sample {sample_index}: {detail}")

    vote: Verdict = judgment.votes[0]
    if vote.forced_answer is not None:
        return record_drop(_FORCED[vote.forced_answer], f"the answer had to be forced ({vote.forced_answer})")
    if vote.scores is None:
        return record_drop(_WORDS[vote.status], vote.detail)
    if not vote.reasoning.strip():
        return record_drop(NO_REASONING, "the teacher answered without a thought")
    if not set(vote.scores) <= {float(label) for label in rubric.labels}:
        return record_drop(OFF_LABELS, f"scores {', '.join(f'{s:g}' for s in vote.scores)} on {rubric.scale}")
    return TrainingExample(reference, vote.reasoning, vote.scores, str(rubric.scale), 0, judgment.model, sample_index)
