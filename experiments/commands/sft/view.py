"""Terminal output of `flex-judge sft`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.card import build_evaluations_table
from flex_judge.alignment.reporting.model import TableRow
from flex_judge.experiments.common.reporting.runs import PAGE
from flex_judge.experiments.common.reporting.terminal import print_run, print_table
from flex_judge.experiments.common.reporting.wording import format_count


def print_judge_training(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a run and the path of the judge."""
    print_run(f"Judge from {summary['base']}", summary, list_judge_training_rows(summary))
    if metrics := summary["metrics"]:
        print_table(build_evaluations_table(summary))
        base: Mapping[str, Any] = next((entry for entry in summary["evaluations"] if entry["step"] == 0), {})
        accuracy_before, accuracy_after = base.get("balanced_accuracy"), metrics["balanced_accuracy"]
        if accuracy_before is not None and accuracy_after is not None and accuracy_after < accuracy_before:
            print("\nThe judge is worse than the base model: check the training data, or train less.")
    print(f"\nJudge with model card: {out}\nPage: {out / 'recipe' / PAGE}")


def list_judge_training_rows(summary: Mapping[str, Any]) -> list[TableRow]:
    """List the counts of a training run."""
    rows: list[TableRow] = [("Trained on", format_count(summary["rows"], "judgment"))]
    rows += [(f"  left out: {reason}", n) for reason, n in summary["dropped"].items()]
    rows.append(("Trained parameters", f"{summary['learning']:,} of {summary['parameters']:,}"))
    if summary["loss"]:
        rows.append(("Loss, first and last", f"{summary['loss']['first']:.4g}, {summary['loss']['last']:.4g}"))
    if summary["metrics"]:
        rows.append(("Evaluated on", format_count(summary["held_out_rows"], "held-out judgment")))
    return rows
