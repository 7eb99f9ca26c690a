"""Terminal output of `flex-judge curate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import TableRow
from flex_judge.experiments.common.reporting.runs import PAGE
from flex_judge.experiments.common.reporting.terminal import print_run
from flex_judge.experiments.common.reporting.wording import format_count


def print_curation(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a run and the path of its results."""
    print_run(f"Judgments of {summary['teacher']}", summary, [*build_flow_rows(summary), *build_example_rows(summary)])
    num_train = sum(summary["samples"]["train"].values())
    for split_and_kind, number in summary["missing"].items():
        print(f"{format_count(number, 'example')} fewer than requested: {split_and_kind}.")
    if summary["rows_lost"]:
        print(f"{format_count(summary['rows_lost'], 'row')} without a usable judgment.")
    if num_train:
        print(f"\n{format_count(num_train, 'training example')} with a data card: {out}\nPage: {out / PAGE}")
    else:
        print(f"\nNo training example is left; {out / 'README.md'} counts what was dropped at each step.")


def build_flow_rows(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    """Build the rows on what each step of the curation kept and dropped."""
    yield "Rows", summary["rows"]
    yield from _build_reason_rows(summary["bad_rows"])
    yield "Usable judgments", summary["judgments"]
    yield from _build_reason_rows(summary["bad_judgments"])
    for step in summary["steps"]:
        yield f"After {step['step']}", step["kept"]
        yield from _build_reason_rows(step["dropped"])


def build_example_rows(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    """Build the rows on the examples that were made."""
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"Examples {split.replace('_', ' ')}: {kind}", number
    for name, number in summary["winners"]["train"].items():
        yield f"  training pairs, winner: {name}", number
    for scale, number in summary["scales"]["train"].items():
        yield f"  training examples, scale {scale}", number


def _build_reason_rows(counts: Mapping[str, int]) -> Iterator[TableRow]:
    for reason, number in counts.items():
        yield f"  {reason}", number
