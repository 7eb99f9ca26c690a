"""Results of the PAMPA study, for tests of its table and page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.experiments.studies.pampa.statistics import (
    compute_best_of_n,
    compute_pass_at_1,
    compute_pass_at_n,
    count_outcomes,
)
from flex_judge.experiments.studies.pampa.task import CLASSES, HIGH, ClassificationTask

TASK = ClassificationTask.from_classes(CLASSES)


def compute_style(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compute the results of a style of prompt from its answers."""
    return {
        "greedy": compute_pass_at_1(rows, TASK),
        "best": compute_best_of_n(rows, TASK),
        "pass_at": compute_pass_at_n(rows, TASK),
        "sampled": {"outcomes": count_outcomes(rows, TASK)},
    }


def make_summary(styles: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Make the summary of a study with two samples per molecule and no training."""
    return {
        "data": "pampa.tab",
        "policy": "mol-llama",
        "judge": "flex-mol-llama",
        "question": TASK.question,
        "samples": 2,
        "test": 2,
        "majority": {"class": HIGH, "accuracy": 0.5},
        "classes_seen": 2,
        "is_paper_s": True,
        "left_out": {},
        "dpo": None,
        "styles": styles,
        **changes,
    }
