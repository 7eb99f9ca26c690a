"""Rules of RewardBench 2 for one prompt, as in the official scripts (arXiv 2506.01937)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

TIES = "Ties"
REFERENCE, TIED = "ref", "tied"
"""Roles in Ties: a question with one right answer, and its counterpart with several."""
NO_RATING = -1.0
"""Score of an answer without a rating in the official scripts."""
CHANCE = 0.25
"""Credit of a prompt without any rating in the official scripts."""
TIE_WEIGHTS = (0.3, 0.3, 0.2, 0.2, 0.01)
TIE_PARTS = ("tied accurate", "reference accurate", "margin", "margin, reference too", "margin size")
"""Parts of the score of Ties, in the order of TIE_WEIGHTS."""


Scores = list[float | None]
"""Scores of all answers to a prompt, the right ones first; None for an answer without one."""


@dataclass(frozen=True)
class TiePrompt:
    """Comparison of the scores of right and wrong answers to a question in Ties."""

    is_accurate: bool
    """Whether every right answer scores higher than every wrong one."""
    spread: float
    """Highest minus lowest score of the right answers."""
    gap: float
    """Lowest score of a right answer minus the highest one of a wrong answer."""


def credit_best(scores: Scores, num_right: int) -> float | None:
    """Credit a prompt: 1 if a right answer has the highest score, divided by the number of answers with that score.

    Returns:
        The credit; None if an answer has no score.
    """
    defined = [score for score in scores if score is not None]
    if not defined or len(defined) < len(scores):
        return None
    winners = [i for i, score in enumerate(scores) if score == max(defined)]
    return sum(i < num_right for i in winners) / len(winners)


def credit_best_officially(scores: Scores, num_right: int) -> float:
    """Credit a prompt as the official scripts do: answers without a score cannot win; without any score, chance."""
    defined = [score for score in scores if score is not None]
    return CHANCE if not defined else credit_best([NO_RATING if s is None else s for s in scores], num_right) or 0.0


def compare_tied_answers(scores: Sequence[float], num_right: int) -> TiePrompt:
    """Compare the scores of right and wrong answers to a question in Ties."""
    right, wrong = scores[:num_right], scores[num_right:]
    gap = min(right) - max(wrong)
    return TiePrompt(gap > 0, max(right) - min(right), gap)


def score_tie_pair(pair: Mapping[str, TiePrompt | None], is_strict: bool) -> list[float]:
    """Compute the parts of the score of Ties for a question with several right answers and its reference.

    A part that lacks a question is nan, which leaves it out of the mean; in the strict metric it is the worst value.
    """
    tied, reference = pair.get(TIED), pair.get(REFERENCE)
    accurate = [math.nan if question is None else float(question.is_accurate) for question in (tied, reference)]
    if tied is None or reference is None:
        # Strict: a question that is in the data but has no value is wrong. One that the data lack is left out.
        if is_strict:
            accurate = [
                0.0 if role in pair and question is None else value
                for role, question, value in zip((TIED, REFERENCE), (tied, reference), accurate, strict=True)
            ]
            if TIED in pair and REFERENCE in pair:
                return [*accurate, 0.0, 0.0, -1.0]
        return [*accurate, math.nan, math.nan, math.nan]
    gap = min(reference.gap, tied.gap)
    # The ratio of gap and spread minus 1; a spread of 0 makes it infinite, and without a gap undefined, which counts 0.
    size = math.tanh(gap / tied.spread - 1) if tied.spread else float(gap > 0) - float(gap < 0)
    return [*accurate, float(tied.gap > tied.spread), float(gap > tied.spread), size]
