"""Metrics of the evaluation of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flex_judge.alignment.judge_training.evaluation import (
    HeldOutComparison,
    build_held_out_comparisons,
    compute_metrics,
    list_measurable_metrics,
)
from flex_judge.experiments.commands.sft.view import print_judge_training
from flex_judge.judges import Comparison, Judgment, Status
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Verdict


def make_comparison(number: int, *scores: float) -> HeldOutComparison:
    responses = [f"It is {k}." for k, _ in enumerate(scores)]
    return HeldOutComparison(
        Comparison.of("What is it?", *responses, rubric="correctness", id=str(number)), scores, 3.0
    )


def make_judgment(scores: tuple[float, ...] | None, forced_answer: str | None = None) -> Judgment:
    status = Status.OK if scores else Status.UNPARSEABLE
    votes = (Verdict(status, scores, forced_answer=forced_answer),)
    return Judgment("", status, scores, None, "", votes[0].preferred, votes=votes)


@pytest.mark.parametrize(
    ("reference", "judgment", "accuracy", "agreement", "parsed"),
    [
        ((5.0,), make_judgment((4.0,)), 1.0, 0.0, 1.0),
        ((5.0,), make_judgment((5.0,)), 1.0, 1.0, 1.0),
        ((1.0,), make_judgment((4.0,)), 0.0, 0.0, 1.0),
        ((5.0,), make_judgment((3.0,)), 0.0, 0.0, 1.0),
        ((3.0,), make_judgment((3.0,)), None, 1.0, 1.0),
        ((5.0,), make_judgment(None), 0.0, 0.0, 0.0),
        ((5.0,), make_judgment((5.0,), "budget"), 1.0, 1.0, 0.0),
        ((5.0, 1.0), make_judgment((4.0, 2.0)), 1.0, 0.0, 1.0),
        ((5.0, 1.0), make_judgment((1.0, 5.0)), 0.0, 0.0, 1.0),
        ((5.0, 1.0), make_judgment((5.0, 5.0)), 0.0, 0.0, 1.0),
        ((5.0, 5.0), make_judgment((2.0, 2.0)), 1.0, 0.0, 1.0),
        ((5.0, 5.0), make_judgment((5.0, 1.0)), 0.0, 0.0, 1.0),
    ],
)
def test_verdict_on_the_side_of_the_reference_is_right(
    reference: tuple[float, ...], judgment: Judgment, accuracy: float | None, agreement: float, parsed: float
) -> None:
    metrics = compute_metrics([make_comparison(1, *reference)], [judgment])
    assert (metrics.accuracy, metrics.agreement, metrics.parsed) == (accuracy, agreement, parsed)


def test_balanced_accuracy_weights_all_sides_equally() -> None:
    rows = [
        make_comparison(1, 5.0),
        make_comparison(2, 5.0),
        make_comparison(3, 5.0),
        make_comparison(4, 1.0),
        make_comparison(5, 5.0, 1.0),
    ]
    metrics = compute_metrics(rows, [make_judgment((5.0,))] * 4 + [make_judgment((5.0, 1.0))])
    assert metrics.accuracy == 4 / 5
    assert metrics.pointwise == 0.5
    assert metrics.pairwise == 1.0
    assert metrics.balanced_accuracy == pytest.approx(2 / 3)


def test_metrics_without_comparisons_are_not_measurable() -> None:
    assert list_measurable_metrics([make_comparison(1, 3.0)]) == {"asked", "parsed", "agreement"}
    assert "pairwise" not in list_measurable_metrics([make_comparison(1, 5.0)])
    assert {"pairwise", "balanced_accuracy"} <= list_measurable_metrics([make_comparison(1, 5.0, 1.0)])


def test_reference_scores_take_precedence_over_teacher_scores() -> None:
    row: dict[str, Any] = {"question": "?", "responses": ["a"], "rubric": "correctness", "scores": [4.0]}
    assert build_held_out_comparisons([row], "f")[0].scores == (4.0,)
    assert build_held_out_comparisons([row | {"reference_scores": [5.0]}], "f")[0].scores == (5.0,)
    with pytest.raises(UsageError, match="f, row 2: field 'scores' is missing"):
        build_held_out_comparisons([row, row | {"scores": None}], "f")
    with pytest.raises(UsageError, match=r"f, row 1: field 'scores': expected 1 numbers \(one per response\), got 2"):
        build_held_out_comparisons([row | {"scores": [1, 2]}], "f")


@pytest.mark.parametrize("final_accuracy", [0.4, 0.6])
def test_summary_warns_if_the_judge_is_worse_than_the_base_model(
    final_accuracy: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = {"balanced_accuracy": final_accuracy} | dict.fromkeys(
        ("accuracy", "pointwise", "pairwise", "agreement", "parsed")
    )
    summary = {
        "base": "small",
        "rows": 3,
        "dropped": {},
        "learning": 1,
        "parameters": 2,
        "loss": None,
        "held_out_rows": 2,
        "metrics": metrics,
        "evaluations": [{"step": 0, **metrics, "balanced_accuracy": 0.5}],
        "seconds": {"total": 1.0},
    }
    print_judge_training(summary, tmp_path)
    assert ("worse than the base model" in capsys.readouterr().out) == (final_accuracy < 0.5)
