"""From a judgment to a reward. A judgment without a score has no reward: None, never a number."""

from __future__ import annotations

from collections.abc import Callable

from judges import Judgment


def written_score(judgment: Judgment) -> float | None:
    """The score the judge wrote for the first response, on its rubric's scale."""
    return None if judgment.scores is None else judgment.scores[0]


def expected_score(judgment: Judgment) -> float | None:
    """The mean of the scale under the judge's distribution where it wrote the score; finer than the score itself."""
    return None if judgment.expected_scores is None else judgment.expected_scores[0]


REWARDS: dict[str, Callable[[Judgment], float | None]] = {"score": written_score, "expected": expected_score}
"""What a trainer may ask for by name."""
