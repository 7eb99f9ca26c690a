"""What `flex-judge curate` shows a person in the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.data_runs.view import print_table
from flex_judge.experiments.common.reporting.wording import count

Row = tuple[str, str]


def print_curated(summary: Mapping[str, Any], out: Path) -> None:
    """Print what the `summary.json` of a run says, and where the results are, to standard output."""
    print_table(f"Judgments of {summary['teacher']}", [*_flow(summary), *_samples(summary)], [], summary)
    made = {split: sum(kinds.values()) for split, kinds in summary["samples"].items()}
    for what, number in summary["missing"].items():
        print(f"{count(number, 'sample')} fewer than wanted: {what}")
    if summary["rows_lost"]:
        print(f"{count(summary['rows_lost'], 'row')} without any judgment that can be used")
    if made["train"]:
        print(f"\n{count(made['train'], 'sample')}, with their data card: {out}")
    else:
        print(f"\nNothing is left to train on; {out / 'README.md'} says where it went")


def _flow(summary: Mapping[str, Any]) -> Iterator[Row]:
    yield "Rows", f"{summary['rows']:,}"
    yield from _reasons(summary["bad_rows"])
    yield "Judgments that can be used", f"{summary['judgments']:,}"
    yield from _reasons(summary["bad_judgments"])
    for step in summary["steps"]:
        yield f"After {step['step']}", f"{step['kept']:,}"
        yield from _reasons(step["dropped"])


def _samples(summary: Mapping[str, Any]) -> Iterator[Row]:
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"Samples {split.replace('_', ' ')}: {kind}", f"{number:,}"
    for name, number in summary["winners"]["train"].items():
        yield f"  pairs to train on, winner: {name}", f"{number:,}"
    for scale, number in summary["scales"]["train"].items():
        yield f"  to train on, scale {scale}", f"{number:,}"


def _reasons(counts: Mapping[str, int]) -> Iterator[Row]:
    for reason, number in counts.items():
        yield f"  {reason}", f"{number:,}"
