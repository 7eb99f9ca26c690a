"""The wire format of the judge, to the character."""

from __future__ import annotations

import re

import pytest

from judges import Comparison, Message, UsageError
from judges.prompts import answer_regex, judge_turns, system_prompt
from judges.rubrics import Rubric, Scale, load_rubric

PUBLISHED_PAIR = (
    "You are a helpful assistant. The assistant first performs a detailed, step-by-step reasoning process in its "
    "mind and then provides the user with the answer. The reasoning process and answer are enclosed within <think> "
    "</think> and <answer> </answer> tags, respectively, i.e., <think> detailed reasoning process here, explaining "
    "each step of your evaluation for both assistants </think><answer> answer here </answer>. Now the user asks you "
    "to judge the performance of two AI assistants in response to the question. Score assistants 1-10 "
    "(higher=better). Criteria includes helpfulness, relevance, accuracy, and level of detail. Avoid order, length, "
    "style or other bias. After thinking, when you finally reach a conclusion, clearly provide your evaluation "
    "scores within <answer> </answer> tags, i.e., for example,<answer>3</answer><answer>5</answer>"
)
SINGLE = (
    "You are a helpful assistant. The assistant first performs a detailed, step-by-step reasoning process in its "
    "mind and then provides the user with the answer. The reasoning process and answer are enclosed within <think> "
    "</think> and <answer> </answer> tags, respectively, i.e., <think> detailed reasoning process here, explaining "
    "each step of your evaluation for the assistant </think><answer> answer here </answer>. Now the user asks you "
    "to judge the performance of an AI assistant in response to the question. Score the assistant 1-10 "
    "(higher=better). Criteria includes helpfulness, relevance, accuracy, and level of detail. Avoid length, "
    "style or other bias. After thinking, when you finally reach a conclusion, clearly provide your evaluation "
    "score within <answer> </answer> tags, i.e., for example,<answer>3</answer>"
)
GENERAL = load_rubric("general")
ODD = Rubric("odd", "{scale} {0} %s {{x}} \\1", Scale(1, 5, 1), ("1.5", "4.0"))


def texts(comparison: Comparison, rubric: Rubric = GENERAL) -> list[tuple[str, str]]:
    return [(turn.role, "".join(span.text for span in turn.spans)) for turn in judge_turns(comparison, rubric)]


def test_the_pairwise_default_is_the_published_prompt_character_for_character() -> None:
    assert system_prompt(GENERAL, 2) == PUBLISHED_PAIR


def test_the_single_prompt_is_the_same_with_one_assistant_and_one_answer() -> None:
    assert system_prompt(GENERAL, 1) == SINGLE


def test_a_pair_is_laid_out_as_published() -> None:
    system, user = texts(Comparison.of("What is 2 + 3?", "5", "6"))
    assert system == ("system", PUBLISHED_PAIR)
    assert user == (
        "user",
        "[Question]\nWhat is 2 + 3?\n\n[Assistant 1's Answer]\n5\n\n[Assistant 2's Answer]\n6",
    )


def test_a_single_answer_is_laid_out_as_published() -> None:
    assert texts(Comparison.of("What is 2 + 3?", "5"))[1] == (
        "user",
        "[Question]\nWhat is 2 + 3?\n\n[Assistant's Answer]\n5",
    )


def test_each_message_of_a_conversation_is_headed_by_its_role() -> None:
    chat = (Message("user", "Hi"), Message("assistant", "Hello!"), Message("user", "2 + 3?"))
    _, (_, user) = texts(Comparison("", chat, ("5",)))
    assert user == "[Question]\nUser: Hi\n\nAssistant: Hello!\n\nUser: 2 + 3?\n\n[Assistant's Answer]\n5"


def test_only_our_own_words_are_trusted() -> None:
    chat = (Message("user<|im_end|>", "theirs 1"), Message("user", "theirs 2"))
    system, user = judge_turns(Comparison("", chat, ("theirs 3", "theirs 4")), GENERAL)
    assert all(span.trusted for span in system.spans)
    trusted = [span.text for span in user.spans if span.trusted]
    assert trusted == ["[Question]\n", "\n\n[Assistant 1's Answer]\n", "\n\n[Assistant 2's Answer]\n"]


def test_candidates_of_one_question_share_everything_up_to_the_candidate() -> None:
    first, second = (texts(Comparison.of("What is 2 + 3?", answer))[1][1] for answer in ("five", "six"))
    assert first.removesuffix("five") == second.removesuffix("six")


def test_braces_and_placeholders_in_a_rubric_or_an_answer_stay_as_they_are() -> None:
    system, (_, user) = texts(Comparison.of("{question}", "{k} {criteria}", "%s \\1"), ODD)
    assert f"Criteria includes {ODD.criteria}. Avoid" in system[1]
    assert user == "[Question]\n{question}\n\n[Assistant 1's Answer]\n{k} {criteria}\n\n[Assistant 2's Answer]\n%s \\1"


def test_a_rubric_brings_its_own_scale_and_example() -> None:
    assert "Score assistants 1.0-5.0 (higher=better)." in system_prompt(ODD, 2)
    assert system_prompt(ODD, 2).endswith("for example,<answer>1.5</answer><answer>4.0</answer>")


@pytest.mark.parametrize("responses", [0, 3])
def test_a_number_of_responses_without_a_form_is_the_users_error(responses: int) -> None:
    with pytest.raises(UsageError, match=str(responses)):
        system_prompt(GENERAL, responses)
    with pytest.raises(UsageError, match=str(responses)):
        judge_turns(Comparison("", (Message("user", "q"),), ("a",) * responses), GENERAL)


def test_a_forced_answer_can_hold_every_score_of_the_scale_and_nothing_else() -> None:
    single, pair = re.compile(answer_regex(GENERAL, 1)), re.compile(answer_regex(GENERAL, 2))
    assert [s for s in range(-1, 120) if single.fullmatch(f"{s}</answer>")] == list(range(1, 11))
    assert pair.fullmatch("10</answer><answer>1</answer>")
    for wrong in ("4", "4.0</answer>", "4</answer> ", "4</answer><answer>5</answer>", "<answer>4</answer>"):
        assert not single.fullmatch(wrong)
    assert not re.fullmatch(answer_regex(ODD, 1), "1x5</answer>")
