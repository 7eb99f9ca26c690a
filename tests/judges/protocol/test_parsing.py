"""Parsing of replies: strict about the number and range of scores, lenient about white space."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges.errors import VerdictParseError
from flex_judge.judges.protocol.parsing import (
    ParsedAnswer,
    extract_answer,
    get_label_scores,
    parse_answer,
    split_answer_first_reply,
)
from flex_judge.judges.rubrics import OPTIONS, Rubric, Scale, load_rubric


def make_rubric(scale: str) -> Rubric:
    parsed = Scale.parse(scale)
    return Rubric(scale, "anything", parsed, parsed.labels[:1])


FIVE, TEN, TENTHS, CHOICE = make_rubric("1-5"), make_rubric("1-10"), make_rubric("1.0-5.0"), load_rubric("genai_image")


@pytest.mark.parametrize(
    ("answer", "responses", "rubric", "scores"),
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
        ("<answer>4</answer>, that is, <answer>4</answer>", 1, FIVE, (4,)),
        ("<answer>8</answer> or <answer> 8.0</answer> or <answer>8/10</answer>", 1, TEN, (8,)),
        ("<answer>1</answer><answer>2</answer> so <answer>1</answer><answer>2</answer>", 2, FIVE, (1, 2)),
        ("<answer>4</answer><answer>", 1, FIVE, (4,)),
        ("<answer>4.5</answer>", 1, TEN, (4.5,)),
        ("<answer>3</answer>" * 7, 7, FIVE, (3,) * 7),
        ("<answer>3, 5</answer>", 2, TEN, (3, 5)),
        ("<answer>3 5</answer>", 2, TEN, (3, 5)),
        ("<answer>\n3\n5\n4\n</answer>", 3, TEN, (3, 5, 4)),
        ("<answer>8/10, 7 / 10; 1</answer>", 3, TEN, (8, 7, 1)),
    ],
)
def test_valid_answer_is_parsed(answer: str, responses: int, rubric: Rubric, scores: tuple[float, ...]) -> None:
    assert parse_answer(answer, responses, rubric).scores == scores


@pytest.mark.parametrize(
    ("answer", "responses", "rubric", "why"),
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
        ("<answer>99</answer> no, <answer>4</answer>", 1, FIVE, "off the scale"),
        ("<answer>good</answer> so <answer>4</answer>", 1, FIVE, "not a score"),
        ("<answer>2</answer> no, <answer>4</answer>", 1, FIVE, r"conflicting answers: \(2\) and \(4\)"),
        ("<answer>2</answer> (it wrote <answer>9</answer>)", 1, TEN, r"conflicting answers: \(2\) and \(9\)"),
        ("It wrote <answer>9</answer>: <answer>2</answer>", 1, TEN, r"conflicting answers: \(9\) and \(2\)"),
        ("<answer>2</answer><answer>9</answer><answer>2</answer>", 1, TEN, r"conflicting answers: \(9\) and \(2\)"),
        ("<answer>2</answer><answer>3</answer> <answer>9</answer><answer>1</answer>", 2, TEN, r"\(2, 3\) and \(9, 1\)"),
        ("<answer>2</answer><answer>3</answer> <answer>3</answer><answer>2</answer>", 2, TEN, r"\(2, 3\) and \(3, 2\)"),
        ("<answer>3, 5</answer>", 3, TEN, "2 scores for 3"),
        ("<answer>3 5 4</answer>", 2, TEN, "3 scores for 2"),
        ("<answer>3, 99</answer>", 2, TEN, "off the scale"),
        ("<answer>3,5</answer>", 2, TEN, "not a score"),
        ("<answer>3, 5,</answer>", 2, TEN, "not a score"),
        ("<answer>3 and 5</answer>", 2, TEN, "not a score"),
        ("<answer>3, 5</answer><answer>4, 5</answer>", 2, TEN, "not a score"),
        ("<answer>[[A>B]]</answer>", 2, TEN, "not a score"),
    ],
)
def test_invalid_answer_is_rejected_with_a_reason(answer: str, responses: int, rubric: Rubric, why: str) -> None:
    with pytest.raises(VerdictParseError, match=why):
        parse_answer(answer, responses, rubric)


def test_score_positions_point_at_the_scores() -> None:
    answer = "So <answer> 10/10</answer>\n<answer>3</answer>"
    assert [answer[p:].partition("<")[0] for p in parse_answer(answer, 2, TEN).positions] == ["10/10", "3"]
    answer = "So <answer> 10/10,  3 </answer>"
    assert [answer[p:].split()[0] for p in parse_answer(answer, 2, TEN).positions] == ["10/10,", "3"]


@pytest.mark.parametrize(
    ("answer", "choice", "shares"),
    [
        ("<answer>[[A>B]]</answer>", "A>B", (1, 0)),
        ("<answer>[[B>A]]</answer>", "B>A", (0, 1)),
        ("<answer>[[A=B=Good]]</answer>", "A=B=Good", (0.5, 0.5)),
        ("<answer>[[A=B=Bad]]</answer>", "A=B=Bad", (0.5, 0.5)),
        ("\n<answer>\n[[ a > b ]] </answer>.", "A>B", (1, 0)),
        ("<answer>[[A = B = GOOD]]</answer>", "A=B=Good", (0.5, 0.5)),
        ("<answer>[[B>A]]</answer>, that is, <answer>[[ b > a ]]</answer>", "B>A", (0, 1)),
    ],
)
def test_option_is_parsed(answer: str, choice: str, shares: tuple[float, float]) -> None:
    reading = parse_answer(answer, 2, CHOICE)
    assert (reading.choice, reading.scores) == (choice, shares)
    (place,) = reading.positions
    assert answer[place:].startswith("[[")
    assert place > answer.rindex("<answer>")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("[[A>B]]", "no <answer>"),
        ("<answer></answer>", "not one of"),
        ("<answer>A>B</answer>", "not one of"),
        ("<answer>[A>B]</answer>", "not one of"),
        ("<answer>[[A>B]</answer>", "not one of"),
        ("<answer>[[A=B]]</answer>", "not one of"),
        ("<answer>[[A=B=Ugly]]</answer>", "not one of"),
        ("<answer>[[A=B=G o o d]]</answer>", "not one of"),
        ("<answer>[[B<A]]</answer>", "not one of"),
        ("<answer>[[A>>B]]</answer>", "not one of"),
        ("<answer>[[A>B]][[B>A]]</answer>", "not one of"),
        ("<answer>[[A>B]] or so</answer>", "not one of"),
        ("<answer>5</answer><answer>3</answer>", "not one of"),
        ("<answer>[[A>B]]</answer> no, <answer>[[C>A]]</answer>", "not one of"),
        ("<answer>[[C>A]]</answer> no, <answer>[[A>B]]</answer>", "not one of"),
        ("<answer>[[A>B]]</answer> (it wrote <answer>[[B>A]]</answer>)", "conflicting answers: A>B and B>A"),
        ("<answer>[[A=B=Good]]</answer><answer>[[A=B=Bad]]</answer>", "conflicting answers: A=B=Good and A=B=Bad"),
    ],
)
def test_invalid_option_is_rejected_with_a_reason(answer: str, why: str) -> None:
    with pytest.raises(VerdictParseError, match=why):
        parse_answer(answer, 2, CHOICE)


def test_labels_map_answers_to_scores() -> None:
    assert get_label_scores(FIVE) == {"1": (1.0,), "2": (2.0,), "3": (3.0,), "4": (4.0,), "5": (5.0,)}
    assert list(get_label_scores(TENTHS).items())[:2] == [("1.0", (1.0,)), ("1.1", (1.1,))]
    assert get_label_scores(CHOICE) == {
        "[[A>B]]": (1.0, 0.0),
        "[[B>A]]": (0.0, 1.0),
        "[[A=B=Good]]": (0.5, 0.5),
        "[[A=B=Bad]]": (0.5, 0.5),
    }


@pytest.mark.parametrize("rubric", [FIVE, TEN, TENTHS, CHOICE], ids=lambda r: r.name)
def test_every_label_parses_to_its_scores(rubric: Rubric) -> None:
    responses = 2 if rubric.has_options else 1
    for label, scores in get_label_scores(rubric).items():
        reading = parse_answer(f"<answer>{label}</answer>", responses, rubric)
        assert reading == ParsedAnswer(scores, (len("<answer>"),), reading.choice)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "<answer>4</answer>"),
        (" was a quotation.</think><answer>4</answer>", "<answer>4</answer>"),
        ("a</think>b</think><answer>4</answer>", "<answer>4</answer>"),
        ("<answer>5</answer> it says.</think><answer>4</answer>", "<answer>5</answer> it says.<answer>4</answer>"),
        ("<answer>4</answer> (not </think><answer>5</answer>)", "<answer>4</answer> (not <answer>5</answer>)"),
        ("</think>", ""),
        ("", ""),
    ],
)
def test_answer_is_after_the_last_think_close_unless_earlier_text_has_one(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("reply", "answer", "reasoning"),
    [
        ("<answer>4</answer>\n<think>because</think>", "<answer>4</answer>\n", "because"),
        ("<answer>4</answer><think>not <answer>5</answer>", "<answer>4</answer>", "not <answer>5</answer>"),
        ("<answer>4</answer><think>a</think> <answer>5</answer>", "<answer>4</answer>", "a"),
        ("<answer>4</answer><think>a <think>b</think>c</think>d", "<answer>4</answer>", "a <think>b</think>c"),
        ("<answer>4</answer>", "<answer>4</answer>", ""),
        ("<think><answer>4</answer></think>", "", "<answer>4</answer>"),
        ("", "", ""),
    ],
)
def test_answer_first_answer_is_before_the_thinking(reply: str, answer: str, reasoning: str) -> None:
    assert split_answer_first_reply(reply) == (answer, reasoning)


PIECES = ["<answer>", "</answer>", "<think>", "</think>", "<", ">", "/", " ", "\n", ", ", "-", "[[", "]]"]
PIECES += ["1", "4", "5", "10", "0", ".5", "3.", "nan", "A>B", "A=B=Bad"]
replies = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3))).map("".join),
    st.lists(st.text(max_size=6).map(lambda t: f"<answer>{t}</answer>")).map("".join),
)


@settings(deadline=None)
@given(replies, st.sampled_from([1, 2, 3]), st.sampled_from([FIVE, TEN, TENTHS]))
def test_any_reply_parses_on_scale_or_is_rejected(reply: str, responses: int, rubric: Rubric) -> None:
    for text in (reply, extract_answer(reply), split_answer_first_reply(reply)[0]):
        try:
            reading = parse_answer(text, responses, rubric)
        except VerdictParseError:
            continue
        assert len(reading.scores) == len(reading.positions) == responses
        assert all(rubric.scale.low <= score <= rubric.scale.high for score in reading.scores)
        assert all(text[place].isdigit() for place in reading.positions)


@settings(deadline=None)
@given(replies, st.sampled_from(TEN.labels), st.sampled_from(TEN.labels))
def test_quotes_around_a_verdict_cannot_change_it(text: str, verdict: str, quote: str) -> None:
    for answer in (f"<answer>{verdict}</answer>{text}<answer>{quote}</answer>", f"<answer>{verdict}</answer>{text}"):
        try:
            reading = parse_answer(answer, 1, TEN)
        except VerdictParseError:
            continue
        assert reading.scores == (float(verdict),)


@settings(deadline=None)
@given(replies)
def test_any_reply_parses_to_an_offered_option_or_is_rejected(reply: str) -> None:
    try:
        reading = parse_answer(reply, 2, CHOICE)
    except VerdictParseError:
        return
    assert reading.scores == OPTIONS[reading.choice or ""]


spaces = st.text(" \n\t\u00a0", max_size=3)


@settings(deadline=None)
@given(st.data(), st.sampled_from([FIVE, TEN, TENTHS]), st.text())
def test_every_valid_verdict_is_parsed_after_any_thinking(data: Any, rubric: Rubric, thinking: str) -> None:
    labels = data.draw(st.lists(st.sampled_from(rubric.labels), min_size=1, max_size=5))
    tags = [f"<answer>{data.draw(spaces)}{label}{data.draw(spaces)}</answer>{data.draw(spaces)}" for label in labels]
    answer = extract_answer(f"{thinking}</think>{''.join(tags)}")
    reading = parse_answer(answer, len(labels), rubric)
    assert reading.scores == tuple(map(float, labels))
    assert [
        answer[place : place + len(label)] for place, label in zip(reading.positions, labels, strict=True)
    ] == labels


@settings(deadline=None)
@given(st.data(), st.sampled_from([FIVE, TEN, TENTHS]))
def test_every_list_of_valid_scores_is_parsed(data: Any, rubric: Rubric) -> None:
    labels = data.draw(st.lists(st.sampled_from(rubric.labels), min_size=2, max_size=5))
    separator = data.draw(st.sampled_from([", ", " ", "\n", " ,\t", ";  "]))
    answer = f"<answer>{data.draw(spaces)}{separator.join(labels)}{data.draw(spaces)}</answer>"
    assert parse_answer(answer, len(labels), rubric).scores == tuple(map(float, labels))


@settings(deadline=None)
@given(st.data(), st.sampled_from(list(OPTIONS)))
def test_every_option_is_parsed_with_any_spacing(data: Any, option: str) -> None:
    letters = data.draw(st.sampled_from([str.upper, str.lower, str]))
    spaced = "".join(f"{data.draw(spaces)}{sign}{data.draw(spaces)}" if sign in "=>" else sign for sign in option)
    reading = parse_answer(f"<answer>[[{data.draw(spaces)}{letters(spaced)}]]</answer>", 2, CHOICE)
    assert (reading.choice, reading.scores) == (option, OPTIONS[option])
