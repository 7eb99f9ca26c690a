"""From the judge's own words to a verdict. Pure and strict: match widely, then check the count and the range.

Only what the judge generated is ever parsed, never its prompt, and of that only what stands outside its thinking.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flex_judge.judges.errors import VerdictParseError
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import OPTIONS, Scale

_ANSWER = re.compile(re.escape(ANSWER_OPEN) + r"(.*?)" + re.escape(ANSWER_CLOSE), re.DOTALL)
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SCORE = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?")
_SEPARATOR = re.compile(r"\s*[,;]\s+|\s+")
_OPTION = re.compile(
    r"\s*(\[\[\s*(A\s*>\s*B|B\s*>\s*A|A\s*=\s*B\s*=\s*Good|A\s*=\s*B\s*=\s*Bad)\s*\]\])\s*\Z",
    re.IGNORECASE,
)
_SPELLING = {option.lower(): option for option in OPTIONS}


@dataclass(frozen=True)
class ParsedAnswer:
    """What an answer says."""

    scores: tuple[float, ...]
    """One per response, in the order in which the judge read them. Of an option: the responses' shares of the win."""
    places: tuple[int, ...]
    """Index in the answer at which each score is written; of an option, the one index of its `[[`."""
    choice: str | None = None
    """The option (`A>B`, `B>A`, `A=B=Good`, `A=B=Bad`), where the rubric asks for one."""


def extract_answer(text: str) -> str:
    """The answer, out of what a judge wrote after its first `</think>`.

    It is what follows the last one, since a judge that quoted the tag went on thinking. But where answers stand before
    the last one too, either may be the quoted one: then all of them are the answer, and agree or are no verdict.
    """
    before, closed, after = text.rpartition(THINK_CLOSE)
    return before.replace(THINK_CLOSE, "") + after if closed and ANSWER_OPEN in before else after


def split_answer_first_reply(reply: str) -> tuple[str, str]:
    """A reply that answers first, as (answer, reasoning), cut at its first `<think>`; what follows its last `</think>`
    is neither. A reply without thinking is all answer."""
    answer, _, rest = reply.partition(THINK_OPEN)
    reasoning, closed, _ = rest.rpartition(THINK_CLOSE)
    return answer, reasoning if closed else rest


def parse_answer(answer: str, responses: int, rubric: Rubric) -> ParsedAnswer:
    """Read a verdict out of what stands outside the thinking.

    A judge may answer several times, 2n tags for n responses, if it says the same every time; the places are then
    those of the last. Where it does not, none of its answers counts, the last as little as the first: one of them may
    be what a response wrote and the judge quoted, and nothing tells which.

    All n scores may also stand in one tag if it is the only one, with spaces or a comma and a space between them;
    `3,5` could be a decimal comma and is refused. A score may be written `8`, `8.0` or `8/10`. One between the scale's
    labels (4.5 on 1-10) is accepted as long as it lies in the range: the judge meant it.

    Args:
        answer: what `after_thinking` or `split_answer_first` calls the answer.
        responses: how many responses were judged together, n.
        rubric: the rubric they were judged by.

    Raises:
        VerdictParseError: no tag, a wrong number of answers, text in any tag that is no answer of the rubric's form,
            a score off the scale, or answers that disagree.
    """
    tags = list(_ANSWER.finditer(answer))
    if not tags:
        raise VerdictParseError(f"no {ANSWER_OPEN} outside the thinking")
    if rubric.has_options:
        return _require_agreement([_parse_option(tag) for tag in tags])
    if len(tags) == 1 < responses and len(listed := _parse_numbers(tags[0])) > 1:
        return _validate_scores(listed, responses, rubric.scale)
    if len(tags) % responses:
        raise VerdictParseError(f"{len(tags)} answers for {responses} responses")
    numbers = [number for tag in tags for number in _parse_numbers(tag, most=1)]
    sets = [numbers[start : start + responses] for start in range(0, len(numbers), responses)]
    return _require_agreement([_validate_scores(one, responses, rubric.scale) for one in sets])


def get_label_scores(rubric: Rubric) -> dict[str, tuple[float, ...]]:
    """What each label means: `{"7": (7.0,)}`, or the responses' shares of the win, `{"[[A>B]]": (1.0, 0.0)}`."""
    if rubric.has_options:
        return {label: OPTIONS[option] for label, option in zip(rubric.labels, OPTIONS, strict=True)}
    return {label: (float(label),) for label in rubric.labels}


@dataclass(frozen=True)
class _WrittenScore:
    text: str
    place: int
    value: float
    out_of: float | None


def _parse_numbers(tag: re.Match[str], most: int | None = None) -> list[_WrittenScore]:
    """The numbers in a tag. Raises VerdictParseError if it holds anything else, or more than `most` of them."""
    text, numbers = tag[1], []
    at, end = len(text) - len(text.lstrip()), len(text.rstrip())
    while number := _SCORE.match(text, at, end):
        out_of = None if number[2] is None else float(number[2])
        numbers.append(_WrittenScore(number[0], tag.start(1) + at, float(number[1]), out_of))
        at = number.end()
        separator = _SEPARATOR.match(text, at, end)
        if separator is None:
            break
        at = separator.end()
    if at != end or not numbers or (most is not None and len(numbers) > most):
        raise VerdictParseError(f"answer {text.strip()[:40]!r} is not a score")
    return numbers


def _validate_scores(numbers: list[_WrittenScore], responses: int, scale: Scale) -> ParsedAnswer:
    if len(numbers) != responses:
        raise VerdictParseError(f"{len(numbers)} scores for {responses} responses")
    for number in numbers:
        if number.value not in scale or number.out_of not in (None, scale.high):
            raise VerdictParseError(f"answer {number.text[:40]!r} is off the scale {scale}")
    return ParsedAnswer(tuple(n.value for n in numbers), tuple(n.place for n in numbers))


def _require_agreement(readings: list[ParsedAnswer]) -> ParsedAnswer:
    """The last of the readings. Raises VerdictParseError if another says something else."""
    last = readings[-1]
    for other in readings:
        if (other.scores, other.choice) != (last.scores, last.choice):
            raise VerdictParseError(f"answers itself in two ways: {_format_answer(other)} and {_format_answer(last)}")
    return last


def _format_answer(reading: ParsedAnswer) -> str:
    return reading.choice or "(" + ", ".join(f"{score:.12g}" for score in reading.scores) + ")"


def _parse_option(tag: re.Match[str]) -> ParsedAnswer:
    match = _OPTION.match(tag[1])
    if match is None:
        allowed = ", ".join(f"[[{option}]]" for option in OPTIONS)
        raise VerdictParseError(f"answer {tag[1].strip()[:40]!r} is none of {allowed}")
    option = _SPELLING["".join(match[2].split()).lower()]
    return ParsedAnswer(OPTIONS[option], (tag.start(1) + match.start(1),), option)
