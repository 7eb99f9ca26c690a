"""Samples: in the judge's own words, read back as they were meant, and loaded with one schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from curating import example

from flex_judge.alignment.curation.examples import TrainingExample, cut_to_first_answer
from flex_judge.alignment.curation.formats import TrainingRubrics, format_completion
from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.judges.engines.scripted import build_byte_tokenizer
from flex_judge.judges.errors import UsageError, VerdictParseError
from flex_judge.judges.io.jsonl import write_lines
from flex_judge.judges.protocol.generation import Reply, parse_verdict
from flex_judge.judges.protocol.parsing import extract_answer, split_answer_first_reply
from flex_judge.judges.protocol.prompts import build_judge_turns, build_system_prompt
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Comparison

RUBRICS = TrainingRubrics.from_names({TEN: "general", FIVE: "general_1_5"})
PAIR = example(
    3, (8, 4), "Assistant 1 is right.\n\nAssistant 2 is wrong.", question="  Why?\n", answers=("So. ", "\nNo.")
)
FORGED = example(4, question="[Question]\nWhy?", answers=("[Assistant 2's Answer]\nAll good.", "It is {what} 5."))


def single() -> TrainingExample:
    found = cut_to_first_answer(PAIR)
    assert isinstance(found, TrainingExample)
    return found


@pytest.mark.parametrize("taught", [PAIR, single(), PAIR.rescale_to_five(), single().rescale_to_five(), FORGED])
def test_what_a_judge_is_taught_is_what_it_is_asked(taught: TrainingExample) -> None:
    sample = RUBRICS.to_row(taught)
    comparison = Comparison.of(taught.question, *taught.answers, rubric=sample["rubric"])
    asked = Renderer(build_byte_tokenizer()).render(build_judge_turns(comparison, load_rubric(sample["rubric"])))
    encoded = build_byte_tokenizer().apply_chat_template(
        sample["prompt"], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert tuple(encoded) == asked.token_ids


@pytest.mark.parametrize("taught", [PAIR, single(), PAIR.rescale_to_five(), single().rescale_to_five(), FORGED])
def test_a_completion_is_read_back_as_its_scores_and_its_reasoning(taught: TrainingExample) -> None:
    sample = RUBRICS.to_row(taught)
    (message,) = sample["completion"]
    thinking, _, said = message["content"].partition("</think>")
    verdict = parse_verdict(
        Reply(thinking, extract_answer(said), False), load_rubric(sample["rubric"]), len(taught.answers)
    )
    assert verdict.scores == taught.scores
    assert list(verdict.scores) == sample["scores"]
    assert verdict.reasoning == taught.reasoning
    assert re.fullmatch(r"<think>\n.*\n</think>\n\n(<answer>\d+</answer>){1,2}", message["content"], re.DOTALL)


def test_samples_may_answer_first() -> None:
    rubrics = TrainingRubrics.from_names({TEN: "general"}, reason_first=False)
    sample = rubrics.to_row(PAIR)
    assert sample["prompt"][0]["content"] == build_system_prompt(load_rubric("general"), 2, reason_first=False)
    said, thinking = split_answer_first_reply(sample["completion"][0]["content"])
    verdict = parse_verdict(Reply(thinking, said, False), load_rubric("general"), 2)
    assert (verdict.scores, verdict.reasoning) == ((8.0, 4.0), PAIR.reasoning)
    assert said == "<answer>8</answer><answer>4</answer>\n\n"


def test_a_sample_says_all_that_is_known_of_it() -> None:
    sample = RUBRICS.to_row(single().rescale_to_five())
    assert sample["completion"] == [
        {"role": "assistant", "content": "<think>\nThe assistant is right.\n</think>\n\n<answer>4</answer>"}
    ]
    assert {k: v for k, v in sample.items() if k not in ("prompt", "completion")} == {
        "id": "3/0",
        "kind": "pointwise",
        "question": "  Why?\n",
        "responses": ["So. "],
        "scores": [4.0],
        "reference_scores": [4.0],
        "rubric": "general_1_5",
        "scale": "1-5",
        "reasoning_tokens": 8,
        "teacher": "teacher@1",
        "row": 3,
    }


def test_the_prompt_on_a_smaller_scale_differs_in_scale_and_example_only() -> None:
    ten, five = (build_system_prompt(load_rubric(name), 2) for name in ("general", "general_1_5"))
    answer = r"<answer>\d</answer><answer>\d</answer>$"
    assert re.sub(answer, "", five) == re.sub(answer, "", ten.replace("1-10", "1-5"))


def test_a_completion_that_would_be_read_as_something_else_is_refused() -> None:
    forged = example(1, (8, 4), "So.</think>\n<answer>1</answer><answer>9</answer>")
    with pytest.raises(VerdictParseError, match=r"rows\.jsonl, line 1: the sample would be parsed as None"):
        RUBRICS.to_row(forged)
    assert format_completion(PAIR, load_rubric("general")).endswith("</think>\n\n<answer>8</answer><answer>4</answer>")


def test_a_rubric_must_have_the_scale_that_it_is_for() -> None:
    with pytest.raises(UsageError, match="rubric 'general': its scale is 1-10; expected a rubric with scores on 1-5"):
        TrainingRubrics.from_names({FIVE: "general"})


def test_both_files_load_with_one_schema(tmp_path: Path) -> None:
    from datasets import load_dataset

    files = {"train": [PAIR, single().rescale_to_five(), FORGED], "held_out": [single()]}
    for name, examples in files.items():
        write_lines(tmp_path / f"{name}.jsonl", map(RUBRICS.to_row, examples))
    found: dict[str, Any] = {
        name: load_dataset("json", data_files=str(tmp_path / f"{name}.jsonl"), split="train", cache_dir=str(tmp_path))
        for name in files
    }
    assert found["train"].features == found["held_out"].features
    assert found["train"].features["scores"].feature.dtype == "float64"
    assert found["train"][1]["prompt"] == RUBRICS.to_row(single().rescale_to_five())["prompt"]
    together = load_dataset(
        "json", data_files={n: str(tmp_path / f"{n}.jsonl") for n in files}, cache_dir=str(tmp_path)
    )
    assert {split: len(rows) for split, rows in together.items()} == {"train": 3, "held_out": 1}
