"""Mapping of scores from the scale 1-10 to 1-5, and checks for reasoning that must keep its scale."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import find_preferred_response

TEN, FIVE = "1-10", "1-5"
"""Scales of training examples: the scale of JudgeLM's reference scores, and the one that halving maps it to."""


def halve_score(score: float) -> float:
    """Map a score on 1-10 to 1-5 by halving and rounding up: 1 and 2 become 1, 9 and 10 become 5."""
    return float(math.ceil(score / 2))


def rescale_scores(scores: Sequence[float], scale: str, target: str) -> tuple[float, ...]:
    """Map scores from one scale to another.

    Raises:
        UsageError: The scales are neither equal nor 1-10 and 1-5.
    """
    if scale == target:
        return tuple(scores)
    if (scale, target) != (TEN, FIVE):
        raise UsageError(f"scores on {scale} cannot be mapped to {target}; only {TEN} to {FIVE} is supported")
    return tuple(map(halve_score, scores))


def hides_winner(scores: Sequence[float]) -> bool:
    """Check whether halving turns scores on 1-10 with one winner into a tie."""
    halved = [halve_score(score) for score in scores]
    return find_preferred_response(scores) is not None and find_preferred_response(halved) is None


_NUMBER = r"(?:\d{1,2}(?:\.\d+)?|one|two|three|four|five|six|seven|eight|nine|ten)"
# Verbs such as "give" count only with an article before the number: "gives 3 examples" mentions no score, "gives it an
# 8" does. A number before a hyphen ("gives an 8-step proof") is no score.
_SCORE_MENTION = re.compile(
    rf"""
    \d\s*/\s*10\b | \bout\s+of\s+(?:10|ten)\b | \b(?:10|ten)[\s-]+points?\b | \b(?:1|one)\s*(?:-|–|to)\s*(?:10|ten)\b
    | \b(?:scor(?:e|es|ed|ing)|rat(?:e|es|ed|ing|ings)|mark|marks|grade|grades)\b[^.\n]{{0,40}}?\b{_NUMBER}\b
    | \b{_NUMBER}\s+points?\b
    | \b(?:deserv|earn|merit|award|assign)\w*\s+(?:an?\s+)?\d{{1,2}}\b
    | \b(?:deserv|earn|merit|award|assign|receiv|giv|gave|get|got)\w*\s+(?:\w+\s+){{0,3}}?an?\s+\d{{1,2}}\b(?!\s*-)
    """,
    re.IGNORECASE | re.VERBOSE,
)
_ASSISTANT_NAME = re.compile(r"assistant\s*#?\s*\d+", re.IGNORECASE)


def mentions_scores(reasoning: str) -> bool:
    """Check whether reasoning names scores, such as "8/10", "out of 10" or "a score of 8".

    Such reasoning would contradict its verdict on another scale. The check prefers false positives to false negatives.
    """
    # "The score of Assistant 1" names an assistant, not a score.
    return _SCORE_MENTION.search(_ASSISTANT_NAME.sub("assistant", reasoning)) is not None
