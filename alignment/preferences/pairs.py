"""A preference pair before it is written in any format, and why there may be none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.data.texts import is_empty_response
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Content, content_to_text

DROP_REASONS = {
    "empty": "fewer than two candidates have a text",
    "unscored": "fewer than two candidates have a score, or none in one of the orders",
    "tied": "the highest and the lowest score are the same, or neither answer wins",
    "equal_text": "the two candidates are the same text",
    "orders_disagree": "which answer wins depends on the order in which the judge reads them",
    "wrong_side": "the answer of the other temperature wins",
    "small_margin": "the scores are less than the margin apart",
    "disagreement": "too many votes do not say what the pair says",
    "length": "one answer is too many times as long as the other",
    "near_duplicate": "the two answers are nearly the same text",
    "cut": "an answer was cut off at its most tokens",
    "over_cap": "the prompt has more pairs than are kept of one prompt",
    "repeated_prompt": "the prompt occurs again under another id",
}
"""Why there is no pair, by the name that counts are kept under. The first six are the rules', the others filters'."""


@dataclass(frozen=True)
class Side:
    """One of the two answers of a pair."""

    index: int
    """Which of the prompt's candidates it is."""
    response: Content
    score: float
    """The judge's score on its rubric's scale; the mean over the votes."""
    expected: float | None
    """The expected score; None where the judge's engine gives none."""
    reasoning: str
    """What the judge thought. On answers that were judged together it is the same for both."""
    temperature: float | None = None
    """At which it was sampled; None where that is not known."""
    cut: bool = False
    """Whether it was cut off at its most tokens."""

    @property
    def text(self) -> str:
        """Its text; each medium is its modality in brackets."""
        return content_to_text(self.response)


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt of which the judge finds one better."""

    row: PromptRow
    chosen: Side
    rejected: Side
    rule: str
    """Name of the rule that made it."""
    votes: int
    """Scored votes that it rests on."""
    disagreement: float
    """The share of votes that do not put the chosen answer above the rejected one; a tie is half such a vote. Of
    answers that were judged alone, every vote on one is held against every vote on the other."""
    rubric: str = ""
    judge: str = ""
    """Name and fingerprint of the judge's model."""
    policy: str = ""
    """Name and fingerprint of the model that answered."""

    @property
    def margin(self) -> float:
        """By how much the scores differ; above 0."""
        return score_difference(self.chosen.score, self.rejected.score)


@dataclass(frozen=True)
class PairResult:
    """The pairs of one prompt, and how many there might have been."""

    pairs: tuple[Pair, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    """By name in DROP_REASONS: pairs that were dropped, each under one reason. A prompt of which no pair could be made
    at all counts once."""

    @classmethod
    def without_pairs(cls, reason: str) -> PairResult:
        return cls((), Counter({reason: 1}))


def score_difference(high: float, low: float) -> float:
    """The difference of two scores, without what floats add to it: 3.3 - 3.0 is a little less than 0.3."""
    return round(high - low, 6)


def make_side(sampled: SampledPrompt, index: int, judgment: Judgment, place: int = 0) -> Side:
    """A candidate with what a judgment says of it, which has scores.

    Args:
        place: which of the judgment's responses the candidate is.
    """
    assert judgment.scores is not None, "an unscored candidate is on no side"
    return Side(
        index,
        sampled.responses[index],
        judgment.scores[place],
        None if judgment.expected_scores is None else judgment.expected_scores[place],
        judgment.reasoning,
        sampled.temperatures[index] if sampled.temperatures else None,
        bool(sampled.cut and sampled.cut[index]),
    )


def get_drop_reason(sampled: SampledPrompt) -> str:
    """Why a prompt has no two different answers with a text."""
    return "equal_text" if sum(not is_empty_response(response) for response in sampled.responses) > 1 else "empty"
