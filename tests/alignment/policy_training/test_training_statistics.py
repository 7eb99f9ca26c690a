"""Two policies compared prompt by prompt, and the model card that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flex_judge.alignment.policy_training.evaluation import compare_policies
from flex_judge.alignment.policy_training.tuning import find_last_checkpoint
from flex_judge.alignment.training.card import write_card
from flex_judge.judges.errors import UsageError


def row(name: str, answers: list[str], scores: list[float | None], right: int = 5) -> dict[str, Any]:
    return {
        "id": name,
        "responses": answers,
        "scores": scores,
        "expected_scores": [None if score is None else score + 0.5 for score in scores],
        "tokens": [len(answer) for answer in answers],
        "kept": {"answer": right},
    }


def test_figures_are_means_over_prompts_and_differences_within_them() -> None:
    before = [row("a", ["5", "4"], [2, 4]), row("b", ["4", "4"], [1, 1])]
    after = [row("b", ["5", "5"], [3, 3]), row("a", ["5", "4"], [3, 5])]  # in whatever order
    found = compare_policies(before, after, "answer")
    assert found["score"]["before"]["value"] == 2.5  # of (2.5 + 4.5) / 2 and 1.5
    assert found["score"]["after"]["value"] == 4.0
    assert found["score"]["difference"]["value"] == 1.5
    assert found["right"]["before"]["value"] == 0.25
    assert found["right"]["difference"]["value"] == 0.5
    assert found["right"]["difference"]["low"] <= 0.5 <= found["right"]["difference"]["high"]
    assert found["tokens"]["difference"]["value"] == 0
    assert (found["prompts"], found["prompts_lost"]) == (2, 0)


def test_what_has_no_score_is_left_out_of_the_scores_and_counted() -> None:
    before = [row("a", ["5", "4"], [2, None]), row("b", ["4"], [None]), row("c", ["4"], [1])]
    after = [row("a", ["5", "4"], [3, 3]), row("b", ["4"], [3])]
    found = compare_policies(before, after)
    assert found["score"]["before"]["value"] == 2.5
    assert found["score"]["difference"]["count"] == 1
    assert found["answers_without_a_score"] == {"before": 2, "after": 0}
    assert (found["prompts"], found["prompts_lost"], found["prompts_without_a_score"]) == (2, 1, 1)
    assert found["right"] is None


def test_nothing_in_common_is_no_figure() -> None:
    with pytest.raises(UsageError, match="no held-out prompt was answered and judged both before and after"):
        compare_policies([row("a", ["5"], [2])], [row("b", ["5"], [2])])


def test_where_no_prompt_has_scores_there_are_no_figures_of_them() -> None:
    assert compare_policies([row("a", ["5"], [None])], [row("a", ["5"], [2])])["score"] is None


def test_the_last_checkpoint_is_the_newest_that_is_whole(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path) is None
    for step, whole in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_the_model_card_says_what_was_measured_and_how(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    before, after = ([row(f"q{n}", ["5", "4"], [n % 5, 4]) for n in range(20)] for _ in range(2))
    summary = {
        "command": "dpo",
        "policy": "owner/base",
        "data": "runs/preferences/data",
        "rows": 1234,
        "judge": "smollm2-135m",
        "judge_adapter": "mine",
        "judge_url": None,
        "rubric": "general",
        "held_out_samples": 2,
        "measured": compare_policies(before, after, "answer"),
        "trl": {"beta": 0.3},
    }
    (tmp_path / "adapter_config.json").touch()
    write_card(tmp_path, summary)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.base_model == "owner/base"
    assert card.data.library_name == "peft"
    for said in ("1,234 rows", "A LoRA adapter for `owner/base`", "with the adapter `mine`", "beta: `0.3`", "50.0 %"):
        assert said in card.text
    write_card(tmp_path, summary | {"measured": None, "policy": "smollm2-135m"})
    card = ModelCard.load(tmp_path / "README.md")
    assert "The policy was not evaluated" in card.text
    assert card.data.base_model is None
