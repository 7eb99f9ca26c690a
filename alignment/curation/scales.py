"""From the scale 1-10 to 1-5, and which reasoning must stay on the scale that it speaks of."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import find_preferred_response

TEN, FIVE = "1-10", "1-5"
"""The scales of samples: that of the reference scores, and half of it."""


def halve_score(score: float) -> float:
    """A score on 1-10 as one on 1-5, rounded up: 1 and 2 become 1, 9 and 10 become 5."""
    return float(math.ceil(score / 2))


def rescale_scores(scores: Sequence[float], scale: str, wanted: str) -> tuple[float, ...]:
    """Scores of one scale on another.

    Raises:
        UsageError: the scales are neither the same nor 1-10 and 1-5.
    """
    if scale == wanted:
        return tuple(scores)
    if (scale, wanted) != (TEN, FIVE):
        raise UsageError(f"scores on {scale} cannot be mapped to {wanted}; only {TEN} to {FIVE} can")
    return tuple(map(halve_score, scores))


def hides_winner(scores: Sequence[float]) -> bool:
    """Whether halving makes a tie of scores on 1-10 of which one was the highest."""
    return (
        find_preferred_response(scores) is not None
        and find_preferred_response([halve_score(s) for s in scores]) is None
    )


_NUMBER = r"(?:\d{1,2}(?:\.\d+)?|one|two|three|four|five|six|seven|eight|nine|ten)"
_OF_SCALE = re.compile(
    rf"""
    \d\s*/\s*10\b | \bout\s+of\s+(?:10|ten)\b | \b(?:10|ten)[\s-]+points?\b | \b(?:1|one)\s*(?:-|–|to)\s*(?:10|ten)\b
    | \b(?:scor(?:e|es|ed|ing)|rat(?:e|es|ed|ing|ings)|mark|marks|grade|grades)\b[^.\n]{{0,40}}?\b{_NUMBER}\b
    | \b{_NUMBER}\s+points?\b
    | \b(?:deserv|earn|merit|award|assign)\w*\s+(?:an?\s+)?\d{{1,2}}\b
    | \b(?:deserv|earn|merit|award|assign|receiv|giv|gave|get|got)\w*\s+(?:\w+\s+){{0,3}}?an?\s+\d{{1,2}}\b(?!\s*-)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAMED = re.compile(r"assistant\s*#?\s*\d+", re.IGNORECASE)


def mentions_scores(reasoning: str) -> bool:
    """Whether a reasoning names scores ("8/10", "out of 10", "a score of 8"): on another scale it would contradict its
    verdict. Rather says so too often than too seldom."""
    return _OF_SCALE.search(_NAMED.sub("assistant", reasoning)) is not None
