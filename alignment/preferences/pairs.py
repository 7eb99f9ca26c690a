"""Preference pairs, independent of the output format, and the reasons for dropping them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.data.texts import is_empty_response
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Response, content_to_text

DROP_REASONS = {
    "empty": "fewer than two candidates have text",
    "unscored": "fewer than two candidates have a score, or one of the orders has none",
    "tied": "the highest and the lowest score are equal, or neither answer wins",
    "equal_text": "the two candidates have the same text",
    "orders_disagree": "the winner depends on the order in which the judge reads the answers",
    "wrong_side": "the answer of the other temperature wins",
    "small_margin": "the score difference is below the margin",
    "disagreement": "too many votes disagree with the pair's preference",
    "length": "the answers differ too much in length",
    "near_duplicate": "the two answers have nearly the same text",
    "cut": "an answer was truncated at its token limit",
    "over_cap": "the prompt has more pairs than the limit per prompt",
    "repeated_prompt": "the prompt has occurred before under another id",
}
"""Reason -> meaning. The first six come from the rules, the others from the filters."""


@dataclass(frozen=True)
class Side:
    """One of the two answers of a pair."""

    index: int
    """Index of the answer among the prompt's candidates."""
    response: Response
    score: float
    """The judge's score on the rubric's scale: the mean over the votes."""
    expected: float | None
    """Expected score; None if the judge's engine gives none."""
    reasoning: str
    """The judge's reasoning. Both sides have the same if they were judged together."""
    temperature: float | None = None
    """Sampling temperature; None if unknown."""
    cut: bool = False
    """Whether the answer was truncated at its token limit."""

    @property
    def text(self) -> str:
        """Text of the answer, with `[modality]` for each media part; a trajectory is written out with its calls."""
        return content_to_text(self.response)


@dataclass(frozen=True)
class Pair:
    """Pair of answers to one prompt: the one that the judge prefers, and the other."""

    row: PromptRow
    chosen: Side
    rejected: Side
    rule: str
    """Name of the rule that made the pair."""
    votes: int
    """Number of scored votes behind the pair."""
    disagreement: float
    """Fraction of votes that do not prefer the chosen answer; a tie counts half. For answers that were judged alone,
    each vote on one is compared with each vote on the other."""
    rubric: str = ""
    judge: str = ""
    """Name and fingerprint of the judge's model."""
    policy: str = ""
    """Name and fingerprint of the model that answered."""

    @property
    def margin(self) -> float:
        """Score difference, above 0."""
        return score_difference(self.chosen.score, self.rejected.score)


@dataclass(frozen=True)
class PairResult:
    """Pairs of one prompt, with the counts of dropped ones."""

    pairs: tuple[Pair, ...] = ()
    dropped: Counter[str] = field(default_factory=Counter)
    """Name in DROP_REASONS -> number of dropped pairs, each counted once. A prompt without any pair counts as one."""

    @classmethod
    def without_pairs(cls, reason: str) -> PairResult:
        """Return the result of a prompt without pairs."""
        return cls((), Counter({reason: 1}))


def score_difference(high: float, low: float) -> float:
    """Return the difference of two scores, rounded: 3.3 - 3.0 is slightly below 0.3 in floating point."""
    return round(high - low, 6)


def make_side(sampled: SampledPrompt, index: int, judgment: Judgment, position: int = 0) -> Side:
    """Combine a candidate with its score from a judgment.

    Args:
        sampled: The prompt with its answers.
        index: Index of the candidate among the prompt's answers.
        judgment: A scored judgment of the candidate.
        position: Position of the candidate among the judgment's responses.
    """
    assert judgment.scores is not None, "an unscored candidate cannot be a side of a pair"
    return Side(
        index=index,
        response=sampled.responses[index],
        score=judgment.scores[position],
        expected=None if judgment.expected_scores is None else judgment.expected_scores[position],
        reasoning=judgment.reasoning,
        temperature=sampled.temperatures[index] if sampled.temperatures else None,
        cut=bool(sampled.cut and sampled.cut[index]),
    )


def get_drop_reason(sampled: SampledPrompt) -> str:
    """Return why a prompt does not have two different non-empty answers: a name in DROP_REASONS."""
    return "equal_text" if sum(not is_empty_response(response) for response in sampled.responses) > 1 else "empty"
