"""Training examples: one judgment by the teacher as something that a judge can learn from.

A pairwise judgment also gives a pointwise example: the judgment of the first assistant, cut out of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from flex_judge.alignment.curation.rows import DropRecord, ReferenceRow
from flex_judge.alignment.curation.scales import FIVE, rescale_scores
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.judges.judgments import find_preferred_response
from flex_judge.judges.types import Message

KINDS = ("pointwise", "pairwise", "listwise")
"""Judgments of one answer, of two, and of more."""
CountTokens = Callable[[Sequence[str]], list[int]]
"""Texts -> the tokens of each."""


@dataclass(frozen=True)
class TrainingExample:
    """A judgment of the answers of a row, or of the first one alone, with the reasoning that leads to it."""

    reference: ReferenceRow
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
        """On the training example's scale."""
        return self.reference.rescale_scores(self.scale)[: len(self.scores)]

    @property
    def winner(self) -> int | None:
        """Index of the best answer; None for a tie and for a single one."""
        return find_preferred_response(self.scores)

    @cached_property
    def question_digest(self) -> str:
        """The same for questions that differ in letter case and white space only."""
        return compute_prompt_digest([Message("user", self.question)])

    @cached_property
    def prompt_digest(self) -> str:
        """The same for questions and answers that differ in letter case and white space only."""
        return compute_prompt_digest([Message("user", self.question), *(Message("assistant", a) for a in self.answers)])

    @property
    def texts(self) -> tuple[str, ...]:
        """Question and answers."""
        return (self.question, *self.answers)

    def rescale_to_five(self) -> TrainingExample:
        """The training example on the scale 1-5."""
        return replace(self, scores=rescale_scores(self.scores, self.scale, FIVE), scale=FIVE)

    def record_drop(self, reason: str, detail: str = "") -> DropRecord:
        """That it is left out."""
        said = f"{self.reference.where}, sample {self.sample_index}"
        return DropRecord(self.reference.row, reason, f"{said}: {detail}" if detail else said)


STARTS_WITH_OTHER = "reasoning speaks of the second assistant or of both before the first"
FIRST_NOT_MENTIONED = "reasoning does not speak of the first assistant by itself"

_THINGS = r"(?:assistants?|answers?|responses?|replies|candidates?)"
_OTHERS = re.compile(
    rf"""
    \bassistant\s*(?:\#|no\.|number)?\s*(?:2|two)\b | (?-i:\b(?:Answer|Response|Reply)\s*\#?\s*2\b)
    | \b(?:second|other)\s+(?:\w+\s+)?{_THINGS}\b | \bthe\s+(?:latter|other\s+one)\b
    | \b(?:both|two|each|either|neither|these|all)\s+(?:of\s+)?(?:(?:the|these)\s+)?(?:\w+\s+){{0,2}}?{_THINGS}\b
    | \b(?:both|each|either|neither)\s+(?:of\s+them|one)\b | \bassistants\b
    | \bassistant\s+(?:1|one)\s*(?:and|&|/|or|vs\.?|versus)\s*(?:2|two)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
_FIRST = re.compile(
    r"""
    \b(?:the\s+)?(?:AI\s+)?assistant\s*(?:\#|no\.|number)?\s*(?:1|one)\b
    | \bthe\s+first\s+(?:AI\s+)?(?P<thing>assistant|answer|response|reply)\b
    | (?-i:\b(?:the\s+)?(?P<named>Answer|Response|Reply)\s*\#?\s*1\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Where a sentence ends: its mark, what closes with it, white space; or a line. "vs." and "e.g." end none.
_END = re.compile(r"""(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\bno)[.!?]["'”’)\]*_]*\s+|\n+""", re.IGNORECASE)
# What is left at the end of a text when the sentence it led to is gone: "2.", "-", "**", "###".
_LEAD = re.compile(r"(?:(?<=[.!?:*])\s+|(?:\A|\n)\s*)(?:\(?\d{1,2}[.)]|[-*•#_]+)[\s*_#-]*\Z")
# What stands between the end of a sentence and a name that the next one begins with.
_BEGINS = re.compile(r"""(?:\A|\n|[.!?]["'”’)\]*_]*\s)[\s>*_#"'“‘(•-]*(?:\d{1,2}[.)]\s*)?[\s*_]*\Z""")


def cut_to_first_answer(example: TrainingExample) -> TrainingExample | str:
    """The judgment of the first answer alone: the reasoning up to the sentence that first speaks of the second
    assistant or of both, in words that fit a single one ("Assistant 1" is "the assistant"), and the first score. Its
    tokens are not counted anew.

    Returns:
        The training example, or why there is none.
    """
    other = _OTHERS.search(example.reasoning)
    reasoning = (
        example.reasoning[: _find_sentence_start(example.reasoning, other.start())] if other else example.reasoning
    )
    reasoning = _strip_list_markers(reasoning)
    if not _FIRST.search(reasoning):
        return STARTS_WITH_OTHER if other else FIRST_NOT_MENTIONED
    return replace(example, reasoning=_FIRST.sub(_rename_assistant, reasoning), scores=example.scores[:1])


def _find_sentence_start(text: str, place: int) -> int:
    """Where the sentence begins that stands at `place`."""
    start = 0
    for end in _END.finditer(text, 0, place):
        start = end.end()
    return start


def _strip_list_markers(text: str) -> str:
    text = text.rstrip()
    while lead := _LEAD.search(text):
        text = text[: lead.start()].rstrip()
    return text


def _rename_assistant(found: re.Match[str]) -> str:
    thing = (found["thing"] or found["named"] or "assistant").lower()
    if found[0].lower().startswith("the "):
        return found[0][:4] + thing
    return ("The " if _BEGINS.search(found.string, 0, found.start()) else "the ") + thing
