"""A lesson: one judgment of the teacher's, as what a judge may learn from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flex_judge.alignment.curation.rows import Dropped, Reference
from flex_judge.alignment.curation.scales import FIVE, on_scale
from flex_judge.alignment.data.texts import prompt_digest
from flex_judge.judges.judgments import preferred
from flex_judge.judges.types import Message

KINDS = ("single", "pair", "batch")
"""Judgments of one answer, of two, and of more."""
CountTokens = Callable[[Sequence[str]], list[int]]
"""Texts -> the tokens of each."""


@dataclass(frozen=True)
class TrainingExample:
    """A judgment of the answers of a row, or of the first one alone, with the reasoning that leads to it."""

    reference: Reference
    reasoning: str
    scores: tuple[float, ...]
    """One for each answer that is judged."""
    scale: str
    tokens: int
    """Of the reasoning."""
    teacher: str
    """Whose judgment it is: name and fingerprint of a model, or the name of a program."""
    sample_index: int = 0
    """Which of the teacher's judgments of the row it is."""

    @property
    def id(self) -> str:
        return f"{self.reference.id}/{self.sample_index}"

    @property
    def question(self) -> str:
        return self.reference.question

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that are judged: all, or the first alone."""
        return self.reference.answers[: len(self.scores)]

    @property
    def kind(self) -> str:
        """A name in KINDS."""
        return KINDS[min(len(self.scores), len(KINDS)) - 1]

    @property
    def reference_scores(self) -> tuple[float, ...]:
        """On the lesson's scale."""
        return self.reference.scores_on(self.scale)[: len(self.scores)]

    @property
    def winner(self) -> int | None:
        """Index of the best answer; None for a tie and for a single one."""
        return preferred(self.scores)

    @cached_property
    def question_digest(self) -> str:
        """The same for questions that differ in letter case and white space only."""
        return prompt_digest([Message("user", self.question)])

    @cached_property
    def prompt_digest(self) -> str:
        """The same for questions and answers that differ in letter case and white space only."""
        return prompt_digest([Message("user", self.question), *(Message("assistant", a) for a in self.answers)])

    @property
    def texts(self) -> tuple[str, ...]:
        """Question and answers."""
        return (self.question, *self.answers)

    def halved(self) -> TrainingExample:
        """The lesson on the scale 1-5."""
        return replace(self, scores=on_scale(self.scores, self.scale, FIVE), scale=FIVE)

    def dropped(self, reason: str, detail: str = "") -> Dropped:
        """That it is left out."""
        said = f"{self.reference.where}, draw {self.sample_index}"
        return Dropped(self.reference.row, reason, f"{said}: {detail}" if detail else said)
