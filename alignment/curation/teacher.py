"""The teacher's judgments as training examples: a model's, several draws of each row, or those of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.curation.examples import CountTokens, TrainingExample
from flex_judge.alignment.curation.rows import Dropped, Fault, Reference
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

    reference: Reference
    sample_index: int
    rubric: str

    @property
    def id(self) -> str:
        return judgment_id(self.reference.id, self.sample_index)

    @property
    def where(self) -> str:
        return f"{self.reference.where}, sample {self.sample_index}"

    def comparison(self) -> Comparison:
        """Question and answers as they are given: the judge draws one vote, and another one for each draw."""
        return Comparison(
            self.id, (Message("user", self.reference.question),), self.reference.answers, self.rubric, self.sample_index
        )


def judgment_id(reference: str, sample_index: int) -> str:
    return f"{reference}/{sample_index}"


def place_of(id: str) -> tuple[str, int] | None:
    """The reference and the draw that a judgment's id names; None for an id of another form."""
    reference, _, sample_index = id.rpartition("/")
    return (
        (reference, int(sample_index))
        if reference and sample_index.isdecimal() and int(sample_index) <= MAX_SAMPLE_INDEX
        else None
    )


@dataclass
class Taught:
    """What a teacher gave."""

    examples: list[TrainingExample]
    dropped: list[Dropped]
    """Replies that teach nothing, and why."""
    lost: int = 0
    """Rows without a single training example."""


def of_judgments(
    references: Sequence[Reference],
    judgments: dict[str, Judgment],
    samples_per_row: int,
    rubric: Rubric,
    count: CountTokens,
    lost: dict[str, str],
) -> Taught:
    """The training examples of a model's judgments.

    Args:
        judgments: by `judgment_id`.
        samples_per_row: how many of each row are looked at.
        rubric: the one that was judged by.
        lost: id of a judgment that could not be made -> why.
    """
    taught = Taught([], [])
    for reference in references:
        found = 0
        for sample_index in range(samples_per_row):
            name = judgment_id(reference.id, sample_index)
            if name not in judgments:
                why = lost.get(name, "no judgment of it is stored")
                taught.dropped.append(
                    Dropped(reference.row, "not judged", f"{reference.where}, sample {sample_index}: {why}")
                )
                continue
            example = _example(reference, sample_index, judgments[name], rubric)
            if isinstance(example, Dropped):
                taught.dropped.append(example)
            else:
                taught.examples.append(example)
                found += 1
        taught.lost += not found
    return replace(taught, examples=counted(taught.examples, count))


def of_program(references: Sequence[Reference], count: CountTokens) -> Taught:
    """The training examples that the program for the embedded task gives: synthetic, and right wherever its reading
    is."""
    taught = Taught([], [])
    for reference in references:
        try:
            reasoning, scores = arithmetic_teacher.judge(reference.question, reference.answers)
        except UsageError as e:
            taught.dropped.append(Dropped(reference.row, Fault.NOT_THE_TASK, f"{reference.where}: {e}"))
            taught.lost += 1
            continue
        given = tuple(map(float, scores))
        taught.examples.append(TrainingExample(reference, reasoning, given, FIVE, 0, arithmetic_teacher.NAME))
    return replace(taught, examples=counted(taught.examples, count))


def counted(examples: Sequence[TrainingExample], count: CountTokens) -> list[TrainingExample]:
    """The training examples with the tokens of their reasoning."""
    found = count([example.reasoning for example in examples])
    return [replace(example, tokens=tokens) for example, tokens in zip(examples, found, strict=True)]


def _example(reference: Reference, sample_index: int, judgment: Judgment, rubric: Rubric) -> TrainingExample | Dropped:
    def dropped(reason: str, detail: str) -> Dropped:
        return Dropped(reference.row, reason, f"{reference.where}, sample {sample_index}: {detail}")

    vote: Verdict = judgment.votes[0]
    if vote.forced_answer is not None:
        return dropped(_FORCED[vote.forced_answer], f"the answer had to be forced ({vote.forced_answer})")
    if vote.scores is None:
        return dropped(_WORDS[vote.status], vote.detail)
    if not vote.reasoning.strip():
        return dropped(NO_REASONING, "the teacher answered without a thought")
    if not set(vote.scores) <= {float(label) for label in rubric.labels}:
        return dropped(OFF_LABELS, f"scores {', '.join(f'{s:g}' for s in vote.scores)} on {rubric.scale}")
    return TrainingExample(reference, vote.reasoning, vote.scores, str(rubric.scale), 0, judgment.model, sample_index)
