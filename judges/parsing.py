"""From the judge's own words to scores. Pure and strict: match widely, then check the count and the range.

Only what the judge generated is ever parsed, never its prompt, and of that only what follows its last `</think>`.
"""

from __future__ import annotations

import re

from judges.errors import VerdictParseError
from judges.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE
from judges.rubrics import Scale

_ANSWER = re.compile(re.escape(ANSWER_OPEN) + r"(.*?)" + re.escape(ANSWER_CLOSE), re.DOTALL)
_SCORE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(?:/\s*([0-9]+(?:\.[0-9]+)?)\s*)?\Z")


def split_reply(reply: str) -> tuple[str, str]:
    """The reply as (reasoning, answer), cut at its last `</think>`; a reply without one is all reasoning."""
    reasoning, closed, answer = reply.rpartition(THINK_CLOSE)
    return (reasoning, answer) if closed else (reply, "")


def parse_scores(answer: str, responses: int, scale: Scale) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Read one score per response out of what follows the thinking.

    A judge that answers several times is taken at its last word: of 2n tags for n responses the last n count.

    Returns:
        The scores, and for each the index in `answer` at which it is written.

    Raises:
        VerdictParseError: no tag, a number of tags that is no multiple of `responses`, text that is no number, or a
            score off the scale.
    """
    tags = list(_ANSWER.finditer(answer))
    if not tags:
        raise VerdictParseError("no <answer> after the thinking")
    if len(tags) % responses:
        raise VerdictParseError(f"{len(tags)} answers for {responses} responses")
    scores, places = [], []
    for tag in tags[-responses:]:
        number = _SCORE.match(tag.group(1))
        if number is None:
            raise VerdictParseError(f"answer {tag.group(1).strip()[:40]!r} is not a score")
        score, out_of = float(number.group(1)), number.group(2)
        if score not in scale or (out_of is not None and float(out_of) != scale.high):
            raise VerdictParseError(f"answer {number.group().strip()!r} is off the scale {scale}")
        scores.append(score)
        places.append(tag.start(1) + number.start(1))
    return tuple(scores), tuple(places)
