"""Parse the judge's replies into verdicts. Pure and strict: match widely, then check the count and the range.

Only text that the judge generated is parsed, never its prompt, and only the part outside its reasoning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from flex_judge.judges.errors import VerdictParseError
from flex_judge.judges.judgments import Status, Usage, Verdict
from flex_judge.judges.protocol.expected_score import compute_moments
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.rubrics.scale import OPTIONS, Scale

_ANSWER = re.compile(re.escape(ANSWER_OPEN) + r"(.*?)" + re.escape(ANSWER_CLOSE), re.DOTALL)
# ASCII digits only: \d also matches digits of other scripts. No sign and no exponent.
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_SCORE = re.compile(rf"({_NUMBER})(?:\s*/\s*({_NUMBER}))?")
# A comma separates scores only if white space follows: `3,5` may be a decimal comma.
_SEPARATOR = re.compile(r"\s*[,;]\s+|\s+")
_OPTION = re.compile(
    r"\s*(\[\[\s*(A\s*>\s*B|B\s*>\s*A|A\s*=\s*B\s*=\s*Good|A\s*=\s*B\s*=\s*Bad)\s*\]\])\s*\Z",
    re.IGNORECASE,
)
_CANONICAL_OPTIONS = {option.lower(): option for option in OPTIONS}


@dataclass(frozen=True)
class Reply:
    """A generated reply, split into reasoning and answer."""

    thinking: str
    answer: str
    """All text outside the reasoning, including the `<answer>` tag that is inserted before a forced answer."""
    cut: bool
    """Whether the answer ran out of tokens."""
    forced_answer: str | None = None
    """Reason for a forced answer: `budget`, `early_end`, `no_answer`; None if the judge answered by itself."""
    num_waits: int = 0
    usage: Usage = field(default_factory=Usage)
    distributions: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Character index of an answer in `answer` -> probability of every possible answer at that position."""


@dataclass(frozen=True)
class ParsedAnswer:
    """Scores or option of an answer, and where they are written."""

    scores: tuple[float, ...]
    """One score per response, in reading order. For an option: each response's share of the win."""
    positions: tuple[int, ...]
    """Character index of each score in the answer; for an option, the index of its `[[`."""
    choice: str | None = None
    """The option (`A>B`, `B>A`, `A=B=Good`, `A=B=Bad`) if the rubric asks for one."""


def parse_verdict(reply: Reply, rubric: Rubric, responses: int) -> Verdict:
    """Parse a reply into a verdict, with scores in reading order.

    A reply without a valid answer gives a verdict without scores, never an error.
    """
    reasoning = reply.thinking.strip().removeprefix(THINK_OPEN).strip()
    verdict = Verdict(Status.OK, reasoning=reasoning, forced_answer=reply.forced_answer, num_waits=reply.num_waits)
    # An answer that ran out of tokens may end in a quoted verdict, so it is parsed only if a grammar produced it.
    if reply.cut and reply.forced_answer is None:
        return replace(verdict, status=Status.TRUNCATED, detail="the answer ran out of tokens")
    try:
        answer = parse_answer(reply.answer, responses, rubric)
    except VerdictParseError as e:
        status = Status.TRUNCATED if reply.cut else Status.UNPARSEABLE
        return replace(verdict, status=status, detail=str(e))
    verdict = replace(verdict, scores=answer.scores, choice=answer.choice)
    if any(position not in reply.distributions for position in answer.positions):
        return verdict
    means: list[float] = []
    deviations: list[float] = []
    label_scores = get_label_scores(rubric)
    for position in answer.positions:
        mean, deviation = compute_moments(reply.distributions[position], label_scores)
        means += mean
        deviations += deviation
    return replace(verdict, expected_scores=tuple(means), deviations=tuple(deviations))


def extract_answer(text: str) -> str:
    """Return the answer part of the text that a judge wrote after its first `</think>`.

    That is the text after the last `</think>`, because a judge that quoted the tag continued to reason. If there are
    answers before the last tag too, any of them may be the quoted one: then all of the text is returned, and the
    answers in it have to agree.
    """
    head, closing_tag, tail = text.rpartition(THINK_CLOSE)
    if closing_tag and ANSWER_OPEN in head:
        return head.replace(THINK_CLOSE, "") + tail
    return tail


def split_answer_first_reply(reply: str) -> tuple[str, str]:
    """Split a reply that answers first into answer and reasoning, at its first `<think>`.

    Text after the last `</think>` belongs to neither. A reply without `<think>` is all answer.
    """
    answer, _, text = reply.partition(THINK_OPEN)
    reasoning, closing_tag, _ = text.rpartition(THINK_CLOSE)
    return answer, reasoning if closing_tag else text


def parse_answer(answer: str, responses: int, rubric: Rubric) -> ParsedAnswer:
    """Parse the text outside the reasoning.

    A judge may answer several times (2n tags for n responses) if the answers agree; positions then refer to the last
    one. If they disagree, none counts, not even the last: one of them may be quoted from a response, and nothing shows
    which.

    A single tag may hold all n scores, separated by spaces or by comma and space. `3,5` is rejected because it could
    be a decimal comma. A score may be written `8`, `8.0` or `8/10`. A score between the scale's labels (4.5 on 1-10)
    is accepted if it is in range, because its meaning is clear.

    Args:
        answer: text from `extract_answer` or `split_answer_first_reply`.
        responses: number of responses judged together, n.
        rubric: the rubric of the verdict.

    Raises:
        VerdictParseError: no tag, a wrong number of answers, text in a tag that is not an answer of the rubric's form,
            a score off the scale, or answers that disagree.
    """
    tags = list(_ANSWER.finditer(answer))
    if not tags:
        raise VerdictParseError(f"no {ANSWER_OPEN} outside the thinking")
    if rubric.has_options:
        return _require_agreement([_parse_option(tag) for tag in tags])
    if len(tags) == 1 < responses:
        scores = _parse_numbers(tags[0])
        if len(scores) > 1:
            return _validate_scores(scores, responses, rubric.scale)
    if len(tags) % responses:
        raise VerdictParseError(f"{len(tags)} answers for {responses} responses")
    numbers = [number for tag in tags for number in _parse_numbers(tag, max_numbers=1)]
    repetitions = [numbers[start : start + responses] for start in range(0, len(numbers), responses)]
    return _require_agreement([_validate_scores(scores, responses, rubric.scale) for scores in repetitions])


def get_label_scores(rubric: Rubric) -> dict[str, tuple[float, ...]]:
    """Map each label to its scores.

    Returns:
        `{"7": (7.0,)}` for scores; for options each response's share of the win, `{"[[A>B]]": (1.0, 0.0)}`.
    """
    if rubric.has_options:
        return {label: OPTIONS[option] for label, option in zip(rubric.labels, OPTIONS, strict=True)}
    return {label: (float(label),) for label in rubric.labels}


@dataclass(frozen=True)
class _WrittenScore:
    text: str
    position: int
    value: float
    out_of: float | None
    """10 in `8/10`; None if only the score is written."""


def _parse_numbers(tag: re.Match[str], max_numbers: int | None = None) -> list[_WrittenScore]:
    """Parse the numbers in a tag.

    Raises:
        VerdictParseError: the tag holds anything else, or more than `max_numbers`.
    """
    text = tag[1]
    numbers: list[_WrittenScore] = []
    cursor, end = len(text) - len(text.lstrip()), len(text.rstrip())
    while number := _SCORE.match(text, cursor, end):
        out_of = None if number[2] is None else float(number[2])
        numbers.append(_WrittenScore(number[0], tag.start(1) + cursor, float(number[1]), out_of))
        cursor = number.end()
        separator = _SEPARATOR.match(text, cursor, end)
        if separator is None:
            break
        cursor = separator.end()
    if cursor != end or not numbers or (max_numbers is not None and len(numbers) > max_numbers):
        raise VerdictParseError(f"answer {text.strip()[:40]!r} is not a score")
    return numbers


def _validate_scores(numbers: list[_WrittenScore], responses: int, scale: Scale) -> ParsedAnswer:
    """Check the number of scores and their range."""
    if len(numbers) != responses:
        raise VerdictParseError(f"{len(numbers)} scores for {responses} responses")
    for number in numbers:
        # `8/10` on a scale of 1-5 is rejected, not converted: the judge used another scale.
        if number.value not in scale or number.out_of not in (None, scale.high):
            raise VerdictParseError(f"answer {number.text[:40]!r} is off the scale {scale}")
    return ParsedAnswer(tuple(n.value for n in numbers), tuple(n.position for n in numbers))


def _require_agreement(answers: list[ParsedAnswer]) -> ParsedAnswer:
    """Return the last answer.

    Raises:
        VerdictParseError: another answer has other scores or another option.
    """
    last = answers[-1]
    for answer in answers:
        if (answer.scores, answer.choice) != (last.scores, last.choice):
            raise VerdictParseError(
                f"the judge gave conflicting answers: {_format_answer(answer)} and {_format_answer(last)}"
            )
    return last


def _format_answer(answer: ParsedAnswer) -> str:
    return answer.choice or "(" + ", ".join(f"{score:.12g}" for score in answer.scores) + ")"


def _parse_option(tag: re.Match[str]) -> ParsedAnswer:
    match = _OPTION.match(tag[1])
    if match is None:
        allowed = ", ".join(f"[[{option}]]" for option in OPTIONS)
        raise VerdictParseError(f"answer {tag[1].strip()[:40]!r} is not one of {allowed}")
    option = _CANONICAL_OPTIONS["".join(match[2].split()).lower()]
    return ParsedAnswer(OPTIONS[option], (tag.start(1) + match.start(1),), option)
