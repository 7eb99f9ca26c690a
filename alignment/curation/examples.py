"""Training examples: teacher judgments in the form that a judge is trained on.

A pairwise judgment also yields a pointwise example: the part of the reasoning about the first assistant, and its score.
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
"""Kinds of examples, with one, two, and three or more judged answers."""
CountTokens = Callable[[Sequence[str]], list[int]]
"""Function that maps texts to their lengths in tokens."""


@dataclass(frozen=True)
class TrainingExample:
    """Judgment of all answers of a row, or of its first answer alone, with the reasoning that leads to the scores."""

    reference: ReferenceRow
    reasoning: str
    scores: tuple[float, ...]
    """One score per judged answer."""
    scale: str
    tokens: int
    """Length of the reasoning in tokens."""
    teacher: str
    """Author of the judgment: name and fingerprint of a model, or name of a program."""
    sample_index: int = 0
    """Index of the judgment among the teacher's judgments of the same row."""

    @property
    def id(self) -> str:
        """Identifier of the judgment within the source."""
        return f"{self.reference.id}/{self.sample_index}"

    @property
    def question(self) -> str:
        """Question of the row."""
        return self.reference.question

    @property
    def answers(self) -> tuple[str, ...]:
        """Judged answers: all answers of the row, or the first one alone."""
        return self.reference.answers[: len(self.scores)]

    @property
    def kind(self) -> str:
        """Kind of the example, one of KINDS."""
        return KINDS[min(len(self.scores), len(KINDS)) - 1]

    @property
    def reference_scores(self) -> tuple[float, ...]:
        """Reference scores of the judged answers on the scale of the example."""
        return self.reference.rescale_scores(self.scale)[: len(self.scores)]

    @property
    def winner(self) -> int | None:
        """Index of the best answer; None for a tie and for a pointwise example."""
        return find_preferred_response(self.scores)

    @cached_property
    def question_digest(self) -> str:
        """Digest of the question that ignores letter case and white space."""
        return compute_prompt_digest([Message("user", self.question)])

    @cached_property
    def prompt_digest(self) -> str:
        """Digest of question and answers that ignores letter case and white space."""
        return compute_prompt_digest([Message("user", self.question), *(Message("assistant", a) for a in self.answers)])

    @property
    def texts(self) -> tuple[str, ...]:
        """Question and judged answers."""
        return (self.question, *self.answers)

    def rescale_to_five(self) -> TrainingExample:
        """Map the scores from the scale 1-10 to 1-5."""
        return replace(self, scores=rescale_scores(self.scores, self.scale, FIVE), scale=FIVE)

    def record_drop(self, reason: str, detail: str = "") -> DropRecord:
        """Make the record that says why this example is dropped."""
        where = f"{self.reference.where}, sample {self.sample_index}"
        return DropRecord(self.reference.row, reason, f"{where}: {detail}" if detail else where)


STARTS_WITH_OTHER = "reasoning mentions the second assistant or both before the first"
FIRST_NOT_MENTIONED = "reasoning does not mention the first assistant separately"

_ANSWER_NOUNS = r"(?:assistants?|answers?|responses?|replies|candidates?)"
# Phrases that mention the second assistant or both. "Answer 2" is matched with a capital only, because "the answer 2"
# is usually a number.
_MENTIONS_OTHER = re.compile(
    rf"""
    \bassistant\s*(?:\#|no\.|number)?\s*(?:2|two)\b | (?-i:\b(?:Answer|Response|Reply)\s*\#?\s*2\b)
    | \b(?:second|other)\s+(?:\w+\s+)?{_ANSWER_NOUNS}\b | \bthe\s+(?:latter|other\s+one)\b
    | \b(?:both|two|each|either|neither|these|all)\s+(?:of\s+)?(?:(?:the|these)\s+)?(?:\w+\s+){{0,2}}?{_ANSWER_NOUNS}\b
    | \b(?:both|each|either|neither)\s+(?:of\s+them|one)\b | \bassistants\b
    | \bassistant\s+(?:1|one)\s*(?:and|&|/|or|vs\.?|versus)\s*(?:2|two)\b
    """,
    re.IGNORECASE | re.VERBOSE,
)
# Names of the first assistant. The groups capture the noun that stays when the number is removed.
_MENTIONS_FIRST = re.compile(
    r"""
    \b(?:the\s+)?(?:AI\s+)?assistant\s*(?:\#|no\.|number)?\s*(?:1|one)\b
    | \bthe\s+first\s+(?:AI\s+)?(?P<noun>assistant|answer|response|reply)\b
    | (?-i:\b(?:the\s+)?(?P<label>Answer|Response|Reply)\s*\#?\s*1\b)
    """,
    re.IGNORECASE | re.VERBOSE,
)
# End of a sentence: punctuation, closing quotes or brackets and white space; or a line break. "vs." and "e.g." do not
# end a sentence.
_SENTENCE_END = re.compile(r"""(?<!\bvs)(?<!\be\.g)(?<!\bi\.e)(?<!\bno)[.!?]["'”’)\]*_]*\s+|\n+""", re.IGNORECASE)
# List marker or heading at the end of a text, left over when its sentence was cut off: "2.", "-", "**", "###".
_DANGLING_MARKER = re.compile(r"(?:(?<=[.!?:*])\s+|(?:\A|\n)\s*)(?:\(?\d{1,2}[.)]|[-*•#_]+)[\s*_#-]*\Z")
# Text before a name that begins a sentence: the end of the previous sentence, then markup and list numbers.
_SENTENCE_START = re.compile(r"""(?:\A|\n|[.!?]["'”’)\]*_]*\s)[\s>*_#"'“‘(•-]*(?:\d{1,2}[.)]\s*)?[\s*_]*\Z""")


def cut_to_first_answer(example: TrainingExample) -> TrainingExample | str:
    """Cut a pairwise example down to a pointwise example of its first answer.

    The reasoning ends before the first sentence that mentions the second assistant or both. "Assistant 1" becomes "the
    assistant", and only the first score stays. The token count is not updated.

    Returns:
        The pointwise example, or the reason why the reasoning cannot be cut.
    """
    other = _MENTIONS_OTHER.search(example.reasoning)
    reasoning = example.reasoning
    if other:
        reasoning = reasoning[: _find_sentence_start(reasoning, other.start())]
    reasoning = _strip_list_markers(reasoning)
    # General remarks that do not mention the first assistant cannot explain its score.
    if not _MENTIONS_FIRST.search(reasoning):
        return STARTS_WITH_OTHER if other else FIRST_NOT_MENTIONED
    return replace(example, reasoning=_MENTIONS_FIRST.sub(_rename_assistant, reasoning), scores=example.scores[:1])


def _find_sentence_start(text: str, position: int) -> int:
    """Find where the sentence at a position begins."""
    start = 0
    # The search stops at the position, so the last match ends the previous sentence.
    for end in _SENTENCE_END.finditer(text, 0, position):
        start = end.end()
    return start


def _strip_list_markers(text: str) -> str:
    text = text.rstrip()
    # Markers can be nested, as in "2. **".
    while marker := _DANGLING_MARKER.search(text):
        text = text[: marker.start()].rstrip()
    return text


def _rename_assistant(match: re.Match[str]) -> str:
    """Replace "Assistant 1" or "the first answer" by "the assistant" or "the answer", keeping the capitalisation."""
    noun = (match["noun"] or match["label"] or "assistant").lower()
    if match[0].lower().startswith("the "):
        return match[0][:4] + noun
    return ("The " if _SENTENCE_START.search(match.string, 0, match.start()) else "the ") + noun
