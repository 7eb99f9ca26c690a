"""Comparison of a policy before and after training, checkpoints, and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flex_judge.alignment.policy_training.evaluation import compare_policies
from flex_judge.alignment.policy_training.tuning import find_last_checkpoint
from flex_judge.alignment.training.card import write_card
from flex_judge.judges.errors import UsageError


def make_row(name: str, answers: list[str], scores: list[float | None], right: int = 5) -> dict[str, Any]:
    return {
        "id": name,
        "responses": answers,
        "scores": scores,
        "expected_scores": [None if score is None else score + 0.5 for score in scores],
        "tokens": [len(answer) for answer in answers],
        "kept": {"answer": right},
    }


def test_metrics_are_means_over_prompts_and_differences_within_prompts() -> None:
    before = [make_row("a", ["5", "4"], [2, 4]), make_row("b", ["4", "4"], [1, 1])]
    after = [make_row("b", ["5", "5"], [3, 3]), make_row("a", ["5", "4"], [3, 5])]  # the order does not matter
    comparison = compare_policies(before, after, "answer")
    assert comparison["score"]["before"]["value"] == 2.5  # mean of (2.5 + 4.5) / 2 and 1.5
    assert comparison["score"]["after"]["value"] == 4.0
    assert comparison["score"]["difference"]["value"] == 1.5
    assert comparison["right"]["before"]["value"] == 0.25
    assert comparison["right"]["difference"]["value"] == 0.5
    assert comparison["right"]["difference"]["low"] <= 0.5 <= comparison["right"]["difference"]["high"]
    assert comparison["tokens"]["difference"]["value"] == 0
    assert (comparison["prompts"], comparison["prompts_lost"]) == (2, 0)


def test_unscored_answers_and_prompts_are_excluded_and_counted() -> None:
    before = [make_row("a", ["5", "4"], [2, None]), make_row("b", ["4"], [None]), make_row("c", ["4"], [1])]
    after = [make_row("a", ["5", "4"], [3, 3]), make_row("b", ["4"], [3])]
    comparison = compare_policies(before, after)
    assert comparison["score"]["before"]["value"] == 2.5
    assert comparison["score"]["difference"]["count"] == 1
    assert comparison["answers_without_a_score"] == {"before": 2, "after": 0}
    assert (comparison["prompts"], comparison["prompts_lost"], comparison["prompts_without_a_score"]) == (2, 1, 1)
    assert comparison["right"] is None


def test_policies_without_common_prompts_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="no held-out prompt was answered and judged both before and after"):
        compare_policies([make_row("a", ["5"], [2])], [make_row("b", ["5"], [2])])


def test_score_metrics_are_none_without_scored_prompts() -> None:
    assert compare_policies([make_row("a", ["5"], [None])], [make_row("a", ["5"], [2])])["score"] is None


def test_last_checkpoint_is_the_newest_complete_one(tmp_path: Path) -> None:
    assert find_last_checkpoint(tmp_path) is None
    for step, is_complete in ((9, True), (10, True), (100, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if is_complete:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").touch()
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_model_card_reports_data_judge_and_metrics(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    before, after = ([make_row(f"q{n}", ["5", "4"], [n % 5, 4]) for n in range(20)] for _ in range(2))
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
    for text in ("1,234 rows", "A LoRA adapter for `owner/base`", "with the adapter `mine`", "beta: `0.3`", "50.0 %"):
        assert text in card.text
    write_card(tmp_path, summary | {"measured": None, "policy": "smollm2-135m"})
    card = ModelCard.load(tmp_path / "README.md")
    assert "The policy was not evaluated" in card.text
    assert card.data.base_model is None
