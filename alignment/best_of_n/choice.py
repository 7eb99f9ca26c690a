"""Best-of-N: of the samples of a prompt, keep the one the judge scores highest."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from flex_judge.judges.judgments import Judgment
from flex_judge.reward.groups.rewards import expected_score, written_score


@dataclass(frozen=True)
class Choice:
    """The winner among the candidates of one prompt."""

    best: int | None
    """Index of the winner; None if no candidate has a score."""
    tied: int
    """How many candidates shared the top and were drawn from; 1 for a clear winner, 0 if there is none."""


def best_of_n(judgments: Sequence[Judgment], seed: int | str = 0) -> Choice:
    """Choose by written score, then by expected score, then at random.

    Args:
        judgments: one single-response judgment per candidate, in the candidates' order.
        seed: decides between candidates that are equal in both; the same seed draws the same winner.
    """
    ranked = {i: rank(j) for i, j in enumerate(judgments) if written_score(j) is not None}
    if not ranked:
        return Choice(None, 0)
    top = max(ranked.values())
    tied = [i for i, r in ranked.items() if r == top]
    return Choice(random.Random(f"best-of-n-{seed}").choice(tied), len(tied))


def rank(judgment: Judgment) -> tuple[float, float]:
    """What scored candidates are ordered by: the written score, and within it the expected score."""
    score, expected = written_score(judgment), expected_score(judgment)
    assert score is not None, "an unscored candidate has no rank"
    return score, score if expected is None else expected
