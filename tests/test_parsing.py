"""From the judge's own words to scores: strict about count and range, lenient about white space."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.errors import VerdictParseError
from judges.parsing import parse_scores, split_reply
from judges.rubrics import Scale

FIVE, TEN, TENTHS = Scale.parse("1-5"), Scale.parse("1-10"), Scale.parse("1.0-5.0")


@pytest.mark.parametrize(
    ("answer", "responses", "scale", "scores"),
    [
        ("<answer>4</answer>", 1, FIVE, (4,)),
        ("<answer> 4\n</answer>", 1, FIVE, (4,)),
        ("\n\nSo: <answer>\u00a04\t</answer> is my score", 1, FIVE, (4,)),
        ("<answer>3.7</answer>", 1, TENTHS, (3.7,)),
        ("<answer>5.0</answer>", 1, FIVE, (5,)),
        ("<answer>8/10</answer>", 1, TEN, (8,)),
        ("<answer>8 / 10</answer>", 1, TEN, (8,)),
        ("<answer>4.5/5.0</answer>", 1, TENTHS, (4.5,)),
        ("<answer>10</answer><answer>1</answer>", 2, TEN, (10, 1)),
        ("First <answer>3</answer>, second\n<answer>5</answer>.", 2, TEN, (3, 5)),
        ("<answer>2</answer> no, <answer>4</answer>", 1, FIVE, (4,)),
        ("<answer>1</answer><answer>2</answer> or <answer>3</answer><answer>4</answer>", 2, FIVE, (3, 4)),
        ("<answer>99</answer> no, <answer>4</answer>", 1, FIVE, (4,)),
        ("<answer>4</answer><answer>", 1, FIVE, (4,)),
    ],
)
def test_a_verdict_is_read(answer: str, responses: int, scale: Scale, scores: tuple[float, ...]) -> None:
    assert parse_scores(answer, responses, scale)[0] == scores


@pytest.mark.parametrize(
    ("answer", "responses", "scale", "why"),
    [
        ("", 1, FIVE, "no <answer>"),
        ("the score is 4", 1, FIVE, "no <answer>"),
        ("<answer>4", 1, FIVE, "no <answer>"),
        ("4</answer>", 1, FIVE, "no <answer>"),
        ("<ANSWER>4</ANSWER>", 1, FIVE, "no <answer>"),
        ("<answer></answer>", 1, FIVE, "not a score"),
        ("<answer>four</answer>", 1, FIVE, "not a score"),
        ("<answer>-4</answer>", 1, FIVE, "not a score"),
        ("<answer>4, 5</answer>", 1, FIVE, "not a score"),
        ("<answer>4 or 5</answer>", 1, FIVE, "not a score"),
        ("<answer>٤</answer>", 1, FIVE, "not a score"),
        ("<answer>1e0</answer>", 1, FIVE, "not a score"),
        ("<answer>nan</answer>", 1, FIVE, "not a score"),
        ("<answer>4.</answer>", 1, FIVE, "not a score"),
        ("<answer>0</answer>", 1, FIVE, "off the scale"),
        ("<answer>6</answer>", 1, FIVE, "off the scale"),
        ("<answer>5.1</answer>", 1, TENTHS, "off the scale"),
        ("<answer>8/5</answer>", 1, FIVE, "off the scale"),
        ("<answer>8/10</answer>", 1, FIVE, "off the scale"),
        ("<answer>4/10</answer>", 1, FIVE, "off the scale"),
        ("<answer>" + "9" * 5000 + "</answer>", 1, FIVE, "off the scale"),
        ("<answer>4</answer>", 2, FIVE, "1 answers for 2"),
        ("<answer>4</answer><answer>5</answer><answer>1</answer>", 2, FIVE, "3 answers for 2"),
        ("<answer>4</answer> no, <answer>99</answer>", 1, FIVE, "off the scale"),
    ],
)
def test_what_is_no_verdict_is_refused_with_the_reason(answer: str, responses: int, scale: Scale, why: str) -> None:
    with pytest.raises(VerdictParseError, match=why):
        parse_scores(answer, responses, scale)


def test_each_score_is_found_where_it_is_written() -> None:
    answer = "So <answer> 10/10</answer>\n<answer>3</answer>"
    _, places = parse_scores(answer, 2, TEN)
    assert [answer[p:].partition("<")[0] for p in places] == ["10/10", "3"]


@pytest.mark.parametrize(
    ("reply", "reasoning", "answer"),
    [
        ("thought</think><answer>4</answer>", "thought", "<answer>4</answer>"),
        ("quote </think><answer>5</answer> so</think>no", "quote </think><answer>5</answer> so", "no"),
        ("I would write <answer>5</answer> but think on", "I would write <answer>5</answer> but think on", ""),
        ("</think>", "", ""),
        ("", "", ""),
    ],
)
def test_an_answer_quoted_in_the_thinking_is_no_verdict(reply: str, reasoning: str, answer: str) -> None:
    assert split_reply(reply) == (reasoning, answer)


PIECES = [
    "<answer>",
    "</answer>",
    "</think>",
    "<",
    ">",
    "/",
    " ",
    "\n",
    "1",
    "4",
    "5",
    "10",
    "0",
    "-",
    ".5",
    "3.",
    "nan",
]
replies = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join),
    st.lists(st.text(max_size=6).map(lambda t: f"<answer>{t}</answer>")).map("".join),
)


@settings(deadline=None)
@given(replies, st.sampled_from([1, 2, 3]), st.sampled_from([FIVE, TEN, TENTHS]))
def test_no_reply_gives_a_score_off_the_scale_or_an_unexpected_error(reply: str, responses: int, scale: Scale) -> None:
    try:
        scores, places = parse_scores(split_reply(reply)[1] or reply, responses, scale)
    except VerdictParseError:
        return
    assert len(scores) == len(places) == responses
    assert all(scale.low <= score <= scale.high for score in scores)


@settings(deadline=None)
@given(st.lists(st.sampled_from(TENTHS.labels), min_size=1, max_size=3), st.text())
def test_every_written_score_of_the_scale_is_read_after_any_thinking(labels: list[str], thinking: str) -> None:
    reply = f"{thinking}</think>" + "".join(f"<answer>{label}</answer>" for label in labels)
    scores, _ = parse_scores(split_reply(reply)[1], len(labels), TENTHS)
    assert scores == tuple(map(float, labels))
