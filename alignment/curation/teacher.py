"""The teacher's judgments as lessons: a model's, several draws of each row, or those of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.curation.examples import CountTokens, Lesson
from flex_judge.alignment.curation.rows import Dropped, Fault, Reference
from flex_judge.alignment.curation.scales import FIVE
from flex_judge.alignment.tasks import synthetic_teacher as arithmetic_teacher
from flex_judge.judges import Comparison, Judgment, Message, Status, Verdict
from flex_judge.judges.errors import UsageError
from flex_judge.judges.rubrics import Rubric
from flex_judge.judges.types import LARGEST_DRAW

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
    draw: int
    rubric: str

    @property
    def id(self) -> str:
        return judgment_id(self.reference.id, self.draw)

    @property
    def where(self) -> str:
        return f"{self.reference.where}, draw {self.draw}"

    def comparison(self) -> Comparison:
        """Question and answers as they are given: the judge draws one vote, and another one for each draw."""
        return Comparison(
            self.id, (Message("user", self.reference.question),), self.reference.answers, self.rubric, self.draw
        )


def judgment_id(reference: str, draw: int) -> str:
    return f"{reference}/{draw}"


def place_of(id: str) -> tuple[str, int] | None:
    """The reference and the draw that a judgment's id names; None for an id of another form."""
    reference, _, draw = id.rpartition("/")
    return (reference, int(draw)) if reference and draw.isdecimal() and int(draw) <= LARGEST_DRAW else None


@dataclass
class Taught:
    """What a teacher gave."""

    lessons: list[Lesson]
    dropped: list[Dropped]
    """Replies that teach nothing, and why."""
    lost: int = 0
    """Rows without a single lesson."""


def of_judgments(
    references: Sequence[Reference],
    judgments: dict[str, Judgment],
    draws: int,
    rubric: Rubric,
    count: CountTokens,
    lost: dict[str, str],
) -> Taught:
    """The lessons of a model's judgments.

    Args:
        judgments: by `judgment_id`.
        draws: how many of each row are looked at.
        rubric: the one that was judged by.
        lost: id of a judgment that could not be made -> why.
    """
    taught = Taught([], [])
    for reference in references:
        found = 0
        for draw in range(draws):
            name = judgment_id(reference.id, draw)
            if name not in judgments:
                why = lost.get(name, "no judgment of it is stored")
                taught.dropped.append(Dropped(reference.row, "not judged", f"{reference.where}, draw {draw}: {why}"))
                continue
            lesson = _lesson(reference, draw, judgments[name], rubric)
            if isinstance(lesson, Dropped):
                taught.dropped.append(lesson)
            else:
                taught.lessons.append(lesson)
                found += 1
        taught.lost += not found
    return replace(taught, lessons=counted(taught.lessons, count))


def of_program(references: Sequence[Reference], count: CountTokens) -> Taught:
    """The lessons that the program for the embedded task gives: synthetic, and right wherever its reading is."""
    taught = Taught([], [])
    for reference in references:
        try:
            reasoning, scores = arithmetic_teacher.judge(reference.question, reference.answers)
        except UsageError as e:
            taught.dropped.append(Dropped(reference.row, Fault.NOT_THE_TASK, f"{reference.where}: {e}"))
            taught.lost += 1
            continue
        given = tuple(map(float, scores))
        taught.lessons.append(Lesson(reference, reasoning, given, FIVE, 0, arithmetic_teacher.NAME))
    return replace(taught, lessons=counted(taught.lessons, count))


def counted(lessons: Sequence[Lesson], count: CountTokens) -> list[Lesson]:
    """The lessons with the tokens of their reasoning."""
    found = count([lesson.reasoning for lesson in lessons])
    return [replace(lesson, tokens=tokens) for lesson, tokens in zip(lessons, found, strict=True)]


def _lesson(reference: Reference, draw: int, judgment: Judgment, rubric: Rubric) -> Lesson | Dropped:
    def dropped(reason: str, detail: str) -> Dropped:
        return Dropped(reference.row, reason, f"{reference.where}, draw {draw}: {detail}")

    vote: Verdict = judgment.votes[0]
    if vote.forced is not None:
        return dropped(_FORCED[vote.forced], f"the answer had to be forced ({vote.forced})")
    if vote.scores is None:
        return dropped(_WORDS[vote.status], vote.detail)
    if not vote.reasoning.strip():
        return dropped(NO_REASONING, "the teacher answered without a thought")
    if not set(vote.scores) <= {float(label) for label in rubric.labels}:
        return dropped(OFF_LABELS, f"scores {', '.join(f'{s:g}' for s in vote.scores)} on {rubric.scale}")
    return Lesson(reference, vote.reasoning, vote.scores, str(rubric.scale), 0, judgment.model, draw)
