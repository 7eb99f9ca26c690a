"""Model card of the embedded judge: training data and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Report, Section, Table, as_percent
from flex_judge.alignment.tasks.synthetic_teacher import TEACHER_NAME
from flex_judge.alignment.training.card import save_card
from flex_judge.judges.models.embedded import BASE, JUDGE

METRICS = (
    ("Single answers, balanced over right and wrong", ("pointwise", "balanced_accuracy")),
    ("- without calculations whose mirror image is in the training data", ("unrelated", "balanced_accuracy")),
    ("- exact score agreement", ("pointwise", "agreement")),
    ("Pairs, balanced over first, second and tie", ("pairwise", "balanced_accuracy")),
    ("Pairs with the same verdict in both orders", ("swap_consistency",)),
    ("Verdicts parsed without forcing", ("parsed",)),
)
"""Title of each metric, and its path in the results of an evaluation."""


def find_metric(results: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    """Look up a metric in the results of an evaluation."""
    value: Any = results
    for name in path:
        value = value[name]
    return None if value is None else float(value)


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the model card of the embedded judge to `README.md` in its folder.

    Args:
        folder: Folder of the adapter.
        summary: Summary that `judge.main` returns.
    """
    save_card(folder, BASE, ["trl", "sft", "flex-judge", "reward-model"], _build_report(summary))


def build_evaluation_table(evaluations: Mapping[str, Any]) -> Table:
    """Build the comparison of the base model (key `base`) and the judge (key `judge`)."""
    base, judge = evaluations["base"], evaluations["judge"]
    rows = [
        (title, as_percent(find_metric(base, path)), as_percent(find_metric(judge, path))) for title, path in METRICS
    ]
    return Table(("", "base model", "this judge"), rows)


def _build_report(summary: Mapping[str, Any]) -> Report:
    evaluation = summary["judge"]
    epochs = "one epoch" if summary["epochs"] == 1 else f"{summary['epochs']:g} epochs"
    intro = [
        f"A LoRA adapter for SmolLM2-135M-Instruct (`{BASE}`) that reasons, then scores answers to arithmetic "
        "questions from 1 to 5, one answer at a time or two side by side. It demonstrates the recipe of Flex-Judge "
        "([arXiv 2505.18601](https://arxiv.org/abs/2505.18601)) on a model that runs on any machine. It can judge "
        "arithmetic and nothing else.",
        f"It was trained for {epochs} on {summary['judgments']:,} judgments that a program wrote (`{TEACHER_NAME}`: "
        f"**synthetic**). They judge answers of the base model to {summary['questions_taught']:,} questions with "
        f"{summary['sums_taught']:,} different calculations. To reproduce it, run:",
        "    python -m flex_judge.experiments.studies.arithmetic_loop judge",
        f"It took {summary['seconds']['total'] / 60:.0f} minutes.",
    ]
    held_out = (
        f"On {evaluation['pointwise']['asked']:,} distinct answers of the base model to "
        f"{summary['evaluation_questions']} other questions, none with a calculation from the training data, and on "
        f"{evaluation['pairwise']['asked'] // 2} pairs of them in both orders. Greedy decoding, one vote; a verdict "
        "without a score counts as wrong."
    )
    evaluation_section = Section("Held-out evaluation", [held_out, build_evaluation_table(summary)])
    return Report(f"{JUDGE}: the embedded judge", intro, [evaluation_section])
