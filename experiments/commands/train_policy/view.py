"""Terminal output of `flex-judge dpo` and `flex-judge grpo`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import TableRow
from flex_judge.alignment.training.card import build_metrics_table
from flex_judge.experiments.common.reporting.runs import PAGE
from flex_judge.experiments.common.reporting.terminal import print_run, print_table
from flex_judge.experiments.common.reporting.wording import format_count


def print_policy_training(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a training run and the path of the policy."""
    print_run(f"{summary['policy']} after {summary['command'].upper()}", summary, list_policy_training_rows(summary))
    if summary["measured"]:
        print_table(build_metrics_table(summary["measured"]))
    print(f"\nPolicy with model card: {out}\nPage: {out / 'evaluation' / PAGE}")


def list_policy_training_rows(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    """List the counts of a training run."""
    yield "Trained on", format_count(summary["rows"], "row")
    if summary["bad_rows"]:
        yield "  rows left out: not valid prompts", summary["bad_rows"]
    if summary["rows_left_out"]:
        yield "  rows left out: too long", summary["rows_left_out"]
    if summary["loss"] is not None:
        yield "Mean loss", f"{summary['loss']:.4g}"
    if measured := summary["measured"]:
        yield "Evaluated on", format_count(measured["prompts"], "held-out prompt")
        unscored = measured["answers_without_a_score"]
        if unscored["before"] or unscored["after"]:
            yield "  answers without a score", f"{unscored['before']} before, {unscored['after']} after"
