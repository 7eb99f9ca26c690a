"""Terminal output of `flex-judge sft`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.card import build_evaluations_table
from flex_judge.alignment.reporting.model import TableRow
from flex_judge.experiments.common.reporting.terminal import print_run, print_table
from flex_judge.experiments.common.reporting.wording import format_count


def print_judge_training(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a run and the path of the judge."""
    rows: list[TableRow] = [("Trained on", format_count(summary["rows"], "judgment"))]
    rows += [(f"  left out: {reason}", n) for reason, n in summary["dropped"].items()]
    rows.append(("Trained parameters", f"{summary['learning']:,} of {summary['parameters']:,}"))
    if summary["loss"]:
        rows.append(("Loss, first and last", f"{summary['loss']['first']:.4g}, {summary['loss']['last']:.4g}"))
    metrics = summary["metrics"]
    if metrics:
        rows.append(("Evaluated on", format_count(summary["held_out_rows"], "held-out judgment")))
    print_run(f"Judge from {summary['base']}", summary, rows)
    if metrics:
        print_table(build_evaluations_table(summary))
        base: Mapping[str, Any] = next((entry for entry in summary["evaluations"] if entry["step"] == 0), {})
        accuracy_before, accuracy_after = base.get("balanced_accuracy"), metrics["balanced_accuracy"]
        if accuracy_before is not None and accuracy_after is not None and accuracy_after < accuracy_before:
            print("\nThe judge is worse than the base model: check the training data, or train less.")
    print(f"\nJudge with model card: {out}")
