"""Terminal output of `flex-judge dpo` and `flex-judge grpo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Row
from flex_judge.alignment.training.card import metrics_table
from flex_judge.experiments.common.reporting.terminal import print_run, print_table
from flex_judge.experiments.common.reporting.wording import count


def print_training(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a training run, and the path of the policy."""
    print_run(f"{summary['policy']} after {summary['command'].upper()}", summary, _data(summary))
    if summary["measured"]:
        print_table(metrics_table(summary["measured"]))
    print(f"\nThe policy, with its model card: {out}")


def _data(summary: Mapping[str, Any]) -> Iterator[Row]:
    yield "Trained on", count(summary["rows"], "row")
    if summary["bad_rows"]:
        yield "  rows left out, as they are no prompts", summary["bad_rows"]
    if summary["rows_left_out"]:
        yield "  rows left out, as too long", summary["rows_left_out"]
    if summary["loss"] is not None:
        yield "Loss, mean", f"{summary['loss']:.4g}"
    if measured := summary["measured"]:
        yield "Measured on", count(measured["prompts"], "held-out prompt")
        unscored = measured["answers_without_a_score"]
        if unscored["before"] or unscored["after"]:
            yield "  answers without a score", f"{unscored['before']} before, {unscored['after']} after"
