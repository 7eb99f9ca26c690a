"""The evaluation of a judge: what a grade is made of."""

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


def asked(number: int, *scores: float) -> HeldOutComparison:
    responses = [f"It is {k}." for k, _ in enumerate(scores)]
    return HeldOutComparison(
        Comparison.of("What is it?", *responses, rubric="correctness", id=str(number)), scores, 3.0
    )


def said(scores: tuple[float, ...] | None, forced_answer: str | None = None) -> Judgment:
    status = Status.OK if scores else Status.UNPARSEABLE
    votes = (Verdict(status, scores, forced_answer=forced_answer),)
    return Judgment("", status, scores, None, "", votes[0].preferred, votes=votes)


@pytest.mark.parametrize(
    ("wanted", "given", "accuracy", "agreement", "parsed"),
    [
        ((5.0,), said((4.0,)), 1.0, 0.0, 1.0),
        ((5.0,), said((5.0,)), 1.0, 1.0, 1.0),
        ((1.0,), said((4.0,)), 0.0, 0.0, 1.0),
        ((5.0,), said((3.0,)), 0.0, 0.0, 1.0),
        ((3.0,), said((3.0,)), None, 1.0, 1.0),
        ((5.0,), said(None), 0.0, 0.0, 0.0),
        ((5.0,), said((5.0,), "budget"), 1.0, 1.0, 0.0),
        ((5.0, 1.0), said((4.0, 2.0)), 1.0, 0.0, 1.0),
        ((5.0, 1.0), said((1.0, 5.0)), 0.0, 0.0, 1.0),
        ((5.0, 1.0), said((5.0, 5.0)), 0.0, 0.0, 1.0),
        ((5.0, 5.0), said((2.0, 2.0)), 1.0, 0.0, 1.0),
        ((5.0, 5.0), said((5.0, 1.0)), 0.0, 0.0, 1.0),
    ],
)
def test_a_verdict_is_right_on_the_reference_s_side(
    wanted: tuple[float, ...], given: Judgment, accuracy: float | None, agreement: float, parsed: float
) -> None:
    metrics = compute_metrics([asked(1, *wanted)], [given])
    assert (metrics.accuracy, metrics.agreement, metrics.parsed) == (accuracy, agreement, parsed)


def test_sides_count_alike_however_often_they_are_asked() -> None:
    rows = [asked(1, 5.0), asked(2, 5.0), asked(3, 5.0), asked(4, 1.0), asked(5, 5.0, 1.0)]
    metrics = compute_metrics(rows, [said((5.0,))] * 4 + [said((5.0, 1.0))])
    assert metrics.accuracy == 4 / 5
    assert metrics.pointwise == 0.5
    assert metrics.pairwise == 1.0
    assert metrics.balanced_accuracy == pytest.approx(2 / 3)


def test_what_is_not_asked_has_no_grade() -> None:
    assert list_measurable_metrics([asked(1, 3.0)]) == {"asked", "parsed", "agreement"}
    assert "pairwise" not in list_measurable_metrics([asked(1, 5.0)])
    assert {"pairwise", "balanced_accuracy"} <= list_measurable_metrics([asked(1, 5.0, 1.0)])


def test_the_reference_is_what_is_graded_against_where_a_teacher_differs() -> None:
    row: dict[str, Any] = {"question": "?", "responses": ["a"], "rubric": "correctness", "scores": [4.0]}
    assert build_held_out_comparisons([row], "f")[0].scores == (4.0,)
    assert build_held_out_comparisons([row | {"reference_scores": [5.0]}], "f")[0].scores == (5.0,)
    with pytest.raises(UsageError, match="f, row 2: field 'scores' is missing"):
        build_held_out_comparisons([row, row | {"scores": None}], "f")
    with pytest.raises(UsageError, match="f, row 1: field 'scores': expected 1 numbers \(one per response\), got 2"):
        build_held_out_comparisons([row | {"scores": [1, 2]}], "f")


@pytest.mark.parametrize("after", [0.4, 0.6])
def test_a_judge_that_got_worse_is_called_so(after: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"balanced_accuracy": after} | dict.fromkeys(("accuracy", "pointwise", "pairwise", "agreement", "parsed"))
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
    assert ("worse than the base model" in capsys.readouterr().out) == (after < 0.5)
