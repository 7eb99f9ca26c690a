"""Terminal output of `flex-judge curate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import TableRow
from flex_judge.experiments.common.reporting.terminal import print_run
from flex_judge.experiments.common.reporting.wording import format_count


def print_curation(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a run, and the path of its results."""
    print_run(
        f"Judgments of {summary['teacher']}", summary, [*_build_flow_rows(summary), *_build_example_rows(summary)]
    )
    made = {split: sum(kinds.values()) for split, kinds in summary["samples"].items()}
    for what, number in summary["missing"].items():
        print(f"{format_count(number, 'sample')} fewer than wanted: {what}")
    if summary["rows_lost"]:
        print(f"{format_count(summary['rows_lost'], 'row')} without any judgment that can be used")
    if made["train"]:
        print(f"\n{format_count(made['train'], 'sample')}, with their data card: {out}")
    else:
        print(f"\nNothing is left to train on; {out / 'README.md'} says where it went")


def _build_flow_rows(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    yield "Rows", summary["rows"]
    yield from _build_reason_rows(summary["bad_rows"])
    yield "Judgments that can be used", summary["judgments"]
    yield from _build_reason_rows(summary["bad_judgments"])
    for step in summary["steps"]:
        yield f"After {step['step']}", step["kept"]
        yield from _build_reason_rows(step["dropped"])


def _build_example_rows(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"Samples {split.replace('_', ' ')}: {kind}", number
    for name, number in summary["winners"]["train"].items():
        yield f"  pairs to train on, winner: {name}", number
    for scale, number in summary["scales"]["train"].items():
        yield f"  to train on, scale {scale}", number


def _build_reason_rows(counts: Mapping[str, int]) -> Iterator[TableRow]:
    for reason, number in counts.items():
        yield f"  {reason}", number
