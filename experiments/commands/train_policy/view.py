"""What a training run came to, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.best_of_n.metrics import interval
from flex_judge.alignment.training.card import FIGURES
from flex_judge.experiments.common.data_runs.view import print_table
from flex_judge.experiments.common.reporting.wording import count


def print_training(summary: Mapping[str, Any], out: Path) -> None:
    """Print what the summary of a training run says, and where the policy is."""
    rows = [
        ("Trained on", count(summary["rows"], "row")),
        *([("  rows left out, as they are no prompts", str(summary["bad_rows"]))] if summary["bad_rows"] else []),
        *([("  rows left out, as too long", str(summary["rows_left_out"]))] if summary["rows_left_out"] else []),
        *([("Loss, mean", f"{summary['loss']:.4g}")] if summary["loss"] is not None else []),
    ]
    figures = summary["measured"]
    measured = list(_measured(figures)) if figures else []
    if figures:
        rows.append(("Measured on", count(figures["prompts"], "held-out prompt")))
        lost = figures["answers_without_a_score"]
        if lost["before"] or lost["after"]:
            rows.append(("  answers without a score", f"{lost['before']} before, {lost['after']} after"))
    print_table(f"{summary['policy']} after {summary['command'].upper()}", rows, measured, summary)
    print(f"\nThe policy, with its model card: {out}")


def _measured(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, title, scale in FIGURES:
        if found := figures[name]:
            yield f"{title}: before", interval(found["before"], scale)
            yield f"{title}: after", interval(found["after"], scale)
            yield "  difference, prompt by prompt", interval(found["difference"], scale)
