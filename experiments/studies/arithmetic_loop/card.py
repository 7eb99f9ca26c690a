"""The model card of the embedded judge: its training data and its evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Report, Section, Table, as_percent
from flex_judge.alignment.tasks.synthetic_teacher import TEACHER_NAME as TEACHER
from flex_judge.alignment.training.card import save_card
from flex_judge.judges.models.embedded import BASE, JUDGE

METRICS = (
    ("Single answers, balanced over right and wrong", ("pointwise", "balanced_accuracy")),
    ("- of sums that were not taught the other way round either", ("unrelated", "balanced_accuracy")),
    ("- exactly the right score", ("pointwise", "agreement")),
    ("Pairs, balanced over first, second and tie", ("pairwise", "balanced_accuracy")),
    ("Same verdict on a pair in the other order", ("swap_consistency",)),
    ("Verdicts given without being forced", ("parsed",)),
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
        folder: the folder of the adapter.
        summary: the summary that `judge.main` returns.
    """
    save_card(folder, BASE, ["trl", "sft", "flex-judge", "reward-model"], _build_report(summary))


def build_evaluation_table(evaluations: Mapping[str, Any]) -> Table:
    """Compare the evaluations of the base model (`base`) and of the judge (`judge`)."""
    base, judge = evaluations["base"], evaluations["judge"]
    rows = [
        (title, as_percent(find_metric(base, path)), as_percent(find_metric(judge, path))) for title, path in METRICS
    ]
    return Table(("", "base model", "this judge"), rows)


def _build_report(summary: Mapping[str, Any]) -> Report:
    evaluation = summary["judge"]
    epochs = "once" if summary["epochs"] == 1 else f"{summary['epochs']:g} times"
    intro = [
        f"A LoRA adapter on SmolLM2-135M-Instruct (`{BASE}`) that thinks, then scores answers to arithmetic questions "
        "from 1 to 5, one at a time or two side by side. It shows what the recipe of Flex-Judge ([arXiv 2505.18601]"
        "(https://arxiv.org/abs/2505.18601)) does on a model that runs anywhere. It can judge sums and nothing else.",
        f"It was tuned on {summary['judgments']:,} judgments, each seen {epochs}, that a program wrote "
        f"(`{TEACHER}`: **synthetic**). They judge answers that the base model sampled to "
        f"{summary['questions_taught']:,} questions with {summary['sums_taught']:,} different sums. To reproduce it:",
        "    python -m flex_judge.experiments.studies.arithmetic_loop judge",
        f"which took {summary['seconds']['total'] / 60:.0f} minutes.",
    ]
    held_out = (
        f"On {evaluation['pointwise']['asked']:,} different answers that the base model sampled to "
        f"{summary['evaluation_questions']} other questions, none with a sum from the training data, and "
        f"{evaluation['pairwise']['asked'] // 2} pairs of them in both orders. Greedy decoding, one vote; a verdict "
        "without a score counts as wrong."
    )
    return Report(
        f"{JUDGE}: the embedded judge",
        intro,
        [Section("Held-out evaluation", [held_out, build_evaluation_table(summary)])],
    )
