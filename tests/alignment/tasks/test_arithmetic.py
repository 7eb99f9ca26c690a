"""Embedded task: questions are distinct and reproducible, and their answers are correct."""

from __future__ import annotations

import re
from operator import add, mul, sub

import pytest

from flex_judge.alignment.tasks.arithmetic import (
    INSTRUCTION,
    KINDS,
    LEVELS,
    ArithmeticQuestion,
    find_last_number,
    generate_questions,
    is_correct_answer,
)
from flex_judge.judges import Message, UsageError

OPERATORS = {"+": add, "-": sub, "*": mul}
STORY = re.compile(r"(\w+) has (\d+) (\w+) and gets (\d+) more\. How many \3 does \1 have now\?")


def calculate_answer(text: str) -> int:
    """Calculate the answer from the text of a question."""
    if story := STORY.fullmatch(text):
        return int(story[2]) + int(story[4])
    match = re.fullmatch(r"What is (\d+) ([-+*]) (\d+)\?", text)
    assert match is not None, text
    return int(OPERATORS[match[2]](int(match[1]), int(match[3])))


@pytest.mark.parametrize("seed", range(5))
def test_every_answer_is_right(seed: int) -> None:
    for question in generate_questions(200, seed):
        assert question.answer == calculate_answer(question.text), question


def test_no_answer_is_negative() -> None:
    assert min(q.answer for q in generate_questions(200)) >= 0


def test_the_same_seed_gives_the_same_questions_and_another_seed_others() -> None:
    assert generate_questions(100, seed=3) == generate_questions(100, seed=3)
    assert generate_questions(100, seed=3) != generate_questions(100, seed=4)


@pytest.mark.parametrize("fewer", [0, 1, 7, 99])
def test_larger_count_only_adds_questions(fewer: int) -> None:
    assert generate_questions(200)[:fewer] == generate_questions(fewer)


@pytest.mark.parametrize("count", [200, 500, 2000])
def test_questions_have_the_requested_count_and_are_distinct(count: int) -> None:
    questions = generate_questions(count)
    assert len(questions) == len({q.text for q in questions}) == len({q.id for q in questions}) == count


def test_kinds_and_levels_take_turns() -> None:
    questions = generate_questions(240)
    assert {(q.kind, q.level) for q in questions[:12]} == {(kind, level) for kind in KINDS for level in LEVELS}
    assert {sum(q.kind == kind for q in questions) for kind in KINDS} == {60}


def test_only_requested_kinds_and_levels_are_generated() -> None:
    questions = generate_questions(40, kinds=("story", "addition"), levels=(2, 3))
    assert {q.kind for q in questions} == {"story", "addition"}
    assert {q.level for q in questions} == {2, 3}


def test_exhausted_kinds_and_levels_raise_a_usage_error() -> None:
    assert len(generate_questions(36, kinds=("subtraction",), levels=(1,))) == 36
    with pytest.raises(UsageError, match="not 37"):
        generate_questions(37, kinds=("subtraction",), levels=(1,))


def test_unknown_kind_or_level_lists_the_available_ones() -> None:
    with pytest.raises(UsageError, match="unknown kind 'division'; choose from addition, subtraction, multiplication"):
        generate_questions(1, kinds=("division",))
    with pytest.raises(UsageError, match="unknown level 4; choose from 1, 2, 3"):
        generate_questions(1, levels=(4,))


def test_empty_kinds_or_levels_raise_a_usage_error() -> None:
    with pytest.raises(UsageError):
        generate_questions(1, kinds=())
    with pytest.raises(UsageError):
        generate_questions(1, levels=())


def test_prompt_requests_a_short_answer_without_revealing_it() -> None:
    question = ArithmeticQuestion("q", "What is 20 + 30?", 50, "addition", 3)
    assert question.prompt == (Message("user", f"What is 20 + 30? {INSTRUCTION}"),)
    assert "50" not in question.prompt[0].content


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("14", 14),
        ("1,024", 1024),
        ("1,024,000.5", 1024000.5),
        ("3.5", 3.5),
        ("-4", -4),
        ("it's 7.", 7),
        ("it's 7.\n", 7),
        ("7, I think", 7),
        ("12 apples, so 14", 14),
        ("12 + 2 = 14", 14),
        ("12+2=14", 14),
        ("7-3", 3),
        ("7-3=4", 4),
        ("3 - 7 = -4", -4),
        ("**14**", 14),
        ("$14", 14),
        ("14%", 14),
        ("14kg", 14),
        (r"\boxed{14}", 14),
        ("14.0", 14),
        ("no. 3 of 1, 2 and 3", 3),
        ("1,5", 1.5),
        ("4,4,4", 4),
        ("9" * 400, 10**400 - 1),
    ],
)
def test_last_number_of_a_text_is_found(text: str, number: float) -> None:
    assert find_last_number(text) == number


@pytest.mark.parametrize("text", ["", "fourteen", "x2", "H2O", "no number, no answer.", "-", ".", ","])
def test_text_without_number_gives_none(text: str) -> None:
    assert find_last_number(text) is None


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("50", True),
        ("20 + 30 = 50.", True),
        ("50.0", True),
        ("50 or 51", False),
        ("5", False),
        ("", False),
        ("-50", False),
    ],
)
def test_response_is_correct_if_its_last_number_is_the_answer(response: str, right: bool) -> None:
    assert is_correct_answer(response, 50) is right
