"""Benchmarks of a suite: how far each is, and the results that earlier starts left in their run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark
from flex_judge.experiments.commands.eval.suite_table import DONE, WAITING, build_rows
from flex_judge.experiments.common.flags import format_flag
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object

SUMMARY = "summary.json"
GROWING = ("limit", "runs")
"""Settings that may differ between starts, so that a result of an earlier start may have other values."""


@dataclass
class SuiteEntry:
    """Benchmark of a suite, and how far it is."""

    state: str = WAITING
    reason: str = ""
    """Why there is no result; for a result of an earlier start, why this start has no newer one."""
    judge: str | None = None
    items: int = 0
    not_judged: int = 0
    notes: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the table, see `build_rows`."""

    @classmethod
    def from_summary(cls, benchmark: Benchmark, summary: Mapping[str, Any]) -> SuiteEntry:
        """Create the entry of a benchmark that is done, from the summary of its run."""
        return cls(
            state=DONE,
            judge=summary["judge"],
            items=summary["items"],
            not_judged=summary["not_judged"],
            notes=list(summary["notes"]),
            rows=build_rows(benchmark, summary),
        )


def find_done_benchmarks(folder: Path) -> set[str]:
    """Find the benchmarks that earlier starts in the folder of a suite have finished.

    Returns:
        Their names; none if the summary of the suite is missing or was written by another version.
    """
    try:
        entries = read_object(folder / SUMMARY, ("benchmarks",))["benchmarks"]
        return {name for name, entry in entries.items() if entry["state"] == DONE}
    except (UsageError, AttributeError, KeyError, TypeError):
        return set()


def load_earlier_entry(benchmark: Benchmark, folder: Path, settings: Mapping[str, Any]) -> SuiteEntry | None:
    """Load the result of a benchmark from its own run folder.

    Args:
        benchmark: The benchmark.
        folder: Its run folder.
        settings: Settings of this start; a note says where the result has other values, see `GROWING`.

    Returns:
        The entry; None if the result is missing or was written by another version. It is then computed again.
    """
    try:
        summary = read_object(folder / SUMMARY)
        entry = SuiteEntry.from_summary(benchmark, summary)
        earlier = {name: summary["settings"][name] for name in GROWING if name in summary["settings"]}
    except (UsageError, AttributeError, KeyError, TypeError):
        return None
    if changed := {name: value for name, value in earlier.items() if value != settings.get(name)}:
        flags = [f"{format_flag(name)} {'unset' if value is None else value}" for name, value in changed.items()]
        entry.notes.append(f"the result is of an earlier start, with {' and '.join(flags)}")
    return entry


def compute_suite_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """Compute the exit status of a suite.

    Returns:
        1 if a benchmark selected in this start has no result of it, or more than `max_failures` items without a
        judgment; else 0.
    """
    entries = [summary["benchmarks"][name] for name in summary["selected"]]
    return int(
        any(entry["state"] != DONE or entry["reason"] or entry["not_judged"] > max_failures for entry in entries)
    )
