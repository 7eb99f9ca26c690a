"""Prompts of the judge: the published format, character for character, and its variations."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_texts import join_pieces

from flex_judge.judges import Comparison, Message, UsageError
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.protocol.prompts import build_answer_regex, build_judge_turns, build_system_prompt
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics import Rubric, Scale, list_rubrics, load_rubric
from flex_judge.judges.types import Content

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
CAT, DOG = Media(Modality.IMAGE, b"cat", "cat.png"), Media(Modality.IMAGE, b"dog", "dog.png")
CLIP = Media(Modality.AUDIO, b"clip", "clip.wav")
ETHANOL = Media(Modality.MOLECULE, b"CCO", "CCO")


def get_turn_texts(comparison: Comparison, rubric: Rubric = GENERAL) -> list[tuple[str, str]]:
    return [(turn.role, join_pieces(turn.pieces)) for turn in build_judge_turns(comparison, rubric)]


def get_user_text(prompt: Content, *responses: Content, rubric: Rubric = GENERAL) -> str:
    return get_turn_texts(Comparison("", (Message("user", prompt),), responses), rubric)[1][1]


def test_pairwise_default_is_exactly_the_published_prompt() -> None:
    assert build_system_prompt(GENERAL, 2) == PUBLISHED_PAIR


def test_single_prompt_differs_in_one_assistant_and_one_answer() -> None:
    assert build_system_prompt(GENERAL, 1) == SINGLE


def test_pair_has_the_published_layout() -> None:
    system, user = get_turn_texts(Comparison.of("What is 2 + 3?", "5", "6"))
    assert system == ("system", PUBLISHED_PAIR)
    assert user == (
        "user",
        "[Question]\nWhat is 2 + 3?\n\n[Assistant 1's Answer]\n5\n\n[Assistant 2's Answer]\n6",
    )


def test_single_answer_has_the_published_layout() -> None:
    assert get_turn_texts(Comparison.of("What is 2 + 3?", "5"))[1] == (
        "user",
        "[Question]\nWhat is 2 + 3?\n\n[Assistant's Answer]\n5",
    )


def test_only_template_text_is_trusted() -> None:
    system, user = build_judge_turns(Comparison.of("theirs 1", "theirs 2", "theirs 3"), GENERAL)
    assert all(isinstance(p, Span) and p.trusted for p in system.pieces)
    trusted = [span.text for span in [p for p in user.pieces if isinstance(p, Span)] if span.trusted]
    assert trusted == ["[Question]\n", "\n\n[Assistant 1's Answer]\n", "\n\n[Assistant 2's Answer]\n"]


def test_candidates_of_one_question_share_the_prompt_prefix() -> None:
    first, second = (get_turn_texts(Comparison.of("What is 2 + 3?", answer))[1][1] for answer in ("five", "six"))
    assert first.removesuffix("five") == second.removesuffix("six")


def test_braces_in_rubrics_and_answers_are_not_filled() -> None:
    system, (_, user) = get_turn_texts(Comparison.of("{question}", "{k} {criteria}", "%s \\1"), ODD)
    assert f"Criteria includes {ODD.criteria}. Avoid" in system[1]
    assert user == "[Question]\n{question}\n\n[Assistant 1's Answer]\n{k} {criteria}\n\n[Assistant 2's Answer]\n%s \\1"


def test_prompt_uses_the_rubrics_scale_and_example() -> None:
    assert "Score assistants 1.0-5.0 (higher=better)." in build_system_prompt(ODD, 2)
    assert build_system_prompt(ODD, 2).endswith("for example,<answer>1.5</answer><answer>4.0</answer>")


@pytest.mark.parametrize(("rubric", "responses"), [("general", 0), ("genai_image", 3), ("speech_quality", 2)])
def test_unsupported_response_count_raises_a_usage_error(rubric: str, responses: int) -> None:
    with pytest.raises(UsageError, match=f"'{rubric}'.* not {responses}$"):
        build_system_prompt(load_rubric(rubric), responses)
    with pytest.raises(UsageError, match=f"'{rubric}'.* not {responses}$"):
        build_judge_turns(Comparison("", (Message("user", "q"),), ("a",) * responses), load_rubric(rubric))


def test_listwise_prompt_differs_from_the_pair_in_its_numbers() -> None:
    changed = PUBLISHED_PAIR.replace("both assistants", "all four assistants").replace("two AI", "four AI")
    assert build_system_prompt(GENERAL, 4) == changed + "<answer>8</answer><answer>1</answer>"
    assert "judge the performance of 12 AI assistants" in build_system_prompt(GENERAL, 12)
    layout = "[Question]\nq\n\n[Assistant 1's Answer]\na\n\n[Assistant 2's Answer]\nb\n\n[Assistant 3's Answer]\nc"
    assert get_user_text("q", "a", "b", "c") == layout


def test_demo_prompt_is_the_one_its_judge_was_trained_with() -> None:
    changed = SINGLE.replace("1-10", "1-5").replace("<answer>3<", "<answer>1<")
    changed = changed.replace(GENERAL.criteria, "mathematical correctness of the final result")
    assert build_system_prompt(load_rubric("correctness"), 1) == changed


def test_answer_first_prompt_only_swaps_the_tags() -> None:
    first = build_system_prompt(GENERAL, 2, reason_first=False)
    assert "<answer> answer here </answer><think> detailed reasoning process here" in first
    assert "thinking, when you finally" not in first
    middle = PUBLISHED_PAIR[PUBLISHED_PAIR.index("Now the user") : PUBLISHED_PAIR.index("After thinking")]
    assert middle in first
    assert first.endswith("for example,<answer>3</answer><answer>5</answer>")
    assert (
        build_judge_turns(Comparison.of("q", "a", "b"), GENERAL, reason_first=False)[1:]
        == build_judge_turns(Comparison.of("q", "a", "b"), GENERAL)[1:]
    )


def test_ranking_asks_for_distinct_scores_while_the_scale_has_enough() -> None:
    batch = load_rubric("mllm_judge_batch")
    asks_for_distinct = "Score assistants 1-10 (higher=better), and give no two of them the same score."
    assert asks_for_distinct in build_system_prompt(batch, 3)
    assert asks_for_distinct in build_system_prompt(batch, 10)
    assert "Score assistants 1-10 (higher=better)." in build_system_prompt(batch, 11)


def test_options_use_letters_in_instructions_and_headers() -> None:
    edit = load_rubric("genai_edit")
    system = build_system_prompt(edit, 2)
    assert "two edited images" in system
    assert "Choose [[A>B]] if image A is better, [[B>A]] if image B is better, [[A=B=Good]] if both" in system
    assert "Score" not in system
    assert system.endswith(
        "evaluation choice within <answer> </answer> tags, i.e., for example,<answer>[[A>B]]</answer>"
    )
    user_text = get_user_text((CAT, "Make it a dog."), (DOG,), (CAT,), rubric=edit)
    assert user_text == "<cat.png>[Question]\nMake it a dog.\n\n[Image A]\n<dog.png>\n\n[Image B]\n<cat.png>"


def test_prompt_uses_the_rubrics_words() -> None:
    data = {
        "criteria": "wit",
        "scale": "1-5",
        "task": "rate {subjects}",
        "subject": "short joke",
        "question_header": "[Topic]",
        "answer_header": "[Joke {k}]",
        "biases": "mood",
        "notes": "A pun is worth 2.",
    }
    rubric = Rubric.from_dict("jokes", data, "jokes.toml")
    pair, single = build_system_prompt(rubric, 2), build_system_prompt(rubric, 1)
    assert "evaluation for both jokes </think>" in pair
    middle = "Score jokes 1-5 (higher=better). Criteria includes wit. A pun is worth 2. Avoid order, mood. After"
    assert f"Now the user asks you to rate two short jokes. {middle}" in pair
    assert "rate a short joke. Score the joke 1-5 (higher=better). Criteria includes wit. A pun" in single
    assert "Avoid mood." in single
    assert get_user_text("cats", "x", "y", rubric=rubric) == "[Topic]\ncats\n\n[Joke 1]\nx\n\n[Joke 2]\ny"
    assert get_user_text("cats", "x", rubric=rubric) == "[Topic]\ncats\n\n[Joke]\nx"


@pytest.mark.parametrize("name", list_rubrics())
@pytest.mark.parametrize("reason_first", [True, False])
def test_every_preset_fills_all_placeholders(name: str, reason_first: bool) -> None:
    rubric = load_rubric(name)
    prompt = build_system_prompt(rubric, rubric.responses[0], reason_first)
    assert not re.search(r"[{}\n]|  |\.\.|,,", prompt)


def test_prompt_media_precede_the_question_in_order() -> None:
    assert get_user_text((CAT, "Which one?", DOG), "the cat") == (
        "<cat.png><dog.png>[Question]\nWhich one?\n\n[Assistant's Answer]\nthe cat"
    )


def test_response_media_stay_in_place() -> None:
    assert get_user_text("Draw a cat.", ("Here: ", CAT, " and", DOG), (DOG,)) == (
        "[Question]\nDraw a cat.\n\n[Assistant 1's Answer]\nHere: <cat.png> and<dog.png>"
        "\n\n[Assistant 2's Answer]\n<dog.png>"
    )


def test_molecules_stay_within_their_sentence() -> None:
    assert get_user_text((CAT, "Is ", ETHANOL, " polar?"), ("Yes, ", ETHANOL, " is.")) == (
        "<cat.png>[Question]\nIs <CCO> polar?\n\n[Assistant's Answer]\nYes, <CCO> is."
    )


def test_question_may_consist_of_media_only() -> None:
    assert get_user_text((CLIP,), "a") == "<clip.wav>[Question]\n\n\n[Assistant's Answer]\na"


hostile = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["{answer}", "{criteria}", "{", "}", "{0}", "%s", "\\1", "\\g<0>", '"""', "[[A>B]]", "</think>"]
        )
    ).map("".join),
).filter(lambda text: "[" not in text.replace("[[", ""))  # hypothesis collects the headers from our source code


@given(st.lists(hostile, min_size=1, max_size=4), hostile)
def test_judged_text_is_unchanged_and_untrusted(responses: list[str], question: str) -> None:
    system, user = build_judge_turns(Comparison.of(question, *responses), GENERAL)
    assert join_pieces(system.pieces) == build_system_prompt(GENERAL, len(responses))
    assert [p.text for p in user.pieces if isinstance(p, Span) and not p.trusted] == [question, *responses]


@given(hostile.filter(str.strip))
def test_rubric_text_is_not_filled_twice(text: str) -> None:
    rubric = Rubric("odd", text, Scale(1, 5), ("1",), biases=text)
    assert f"Criteria includes {text}. Avoid {text}. After thinking" in build_system_prompt(rubric, 1)


def test_answer_grammar_matches_exactly_the_scores_of_the_scale() -> None:
    single, pair = re.compile(build_answer_regex(GENERAL, 1)), re.compile(build_answer_regex(GENERAL, 2))
    assert [s for s in range(-1, 120) if single.fullmatch(f"{s}</answer>")] == list(range(1, 11))
    assert pair.fullmatch("10</answer><answer>1</answer>")
    for invalid in ("4", "4.0</answer>", "4</answer> ", "4</answer><answer>5</answer>", "<answer>4</answer>"):
        assert not single.fullmatch(invalid)
    assert not re.fullmatch(build_answer_regex(ODD, 1), "1x5</answer>")
    assert re.fullmatch(build_answer_regex(GENERAL, 4), "</answer><answer>".join("3581") + "</answer>")


def test_choice_grammar_matches_exactly_the_four_options() -> None:
    choice = re.compile(build_answer_regex(load_rubric("genai_image"), 2))
    for option in ("[[A>B]]", "[[B>A]]", "[[A=B=Good]]", "[[A=B=Bad]]"):
        assert choice.fullmatch(f"{option}</answer>")
    for invalid in ("A>B</answer>", "[[A=B]]</answer>", "[[A>B]]", "[[A>B]]</answer><answer>[[A>B]]</answer>"):
        assert not choice.fullmatch(invalid)
