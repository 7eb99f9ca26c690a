"""What making a judge came to, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.card import JUDGE_METRICS, share
from flex_judge.experiments.common.data_runs.view import print_table
from flex_judge.experiments.common.reporting.wording import count


def print_judge(summary: Mapping[str, Any], out: Path) -> None:
    """Print what the summary of a run says, and where the judge is."""
    rows: list[tuple[str, str]] = [("Trained on", count(summary["rows"], "judgment"))]
    rows += [(f"  left out: {reason}", str(n)) for reason, n in summary["dropped"].items()]
    rows.append(("Parameters that learnt", f"{summary['learning']:,} of {summary['parameters']:,}"))
    if summary["loss"]:
        rows.append(("Loss, first and last", f"{summary['loss']['first']:.4g}, {summary['loss']['last']:.4g}"))
    metrics: list[tuple[str, str]] = []
    start: Mapping[str, Any] = {}
    if summary["metrics"]:
        rows.append(("Examined on", count(summary["held_out_rows"], "held-out judgment")))
        start = next((evaluation for evaluation in summary["evaluations"] if evaluation["step"] == 0), start)
        for name, title in JUDGE_METRICS:
            if summary["metrics"][name] is not None:
                metrics.append((f"{title}: before", share(start.get(name))))
                metrics.append((f"{title}: after", share(summary["metrics"][name])))
    print_table(f"{summary['base']} as a judge", rows, metrics, summary)
    if summary["metrics"] and _worse(start, summary["metrics"]):
        print("\nIt judges worse than the base model did: look at the data, or train less.")
    print(f"\nThe judge, with its model card: {out}")


def _worse(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    first, last = before.get("balanced_accuracy"), after["balanced_accuracy"]
    return first is not None and last is not None and last < first
