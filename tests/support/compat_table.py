"""Table of the trainers that the tests in tests/compat ran, shown at the end of a test run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROPERTY = "compat"
"""Name of the user property of a test report that holds a `TrainerRun`."""
COLUMNS = ("trainer", "version", "what was run", "result")


@dataclass(frozen=True)
class TrainerRun:
    """A trainer, the version that was installed (empty if none), and what its driver runs."""

    trainer: str
    version: str
    runs: str

    def to_json(self) -> dict[str, str]:
        """Convert to a dict, which pytest-xdist can send between processes."""
        return asdict(self)


def list_rows(stats: dict[str, list[Any]]) -> list[tuple[str, ...]]:
    """List the rows of the table from the reports of a test run, sorted by trainer."""
    rows = []
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == PROPERTY and report.when == "call":
                    run = TrainerRun(**value)
                    reason = ""
                    if outcome == "skipped" and isinstance(report.longrepr, tuple):
                        reason = f": {report.longrepr[2].removeprefix('Skipped: ')}"
                    rows.append((run.trainer, run.version or "-", run.runs, outcome + reason))
    return sorted(rows)


def format_markdown(rows: Iterable[tuple[str, ...]]) -> str:
    """Format the table as Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_table(terminal: Any, file: str | None) -> None:
    """Print the table if a trainer was run, and also write it to a file if one is given.

    Args:
        terminal: pytest's terminal reporter.
        file: path of the Markdown file; None writes none.
    """
    rows = list_rows(terminal.stats)
    if not rows:
        return
    terminal.section("trainers")
    table = format_markdown(rows)
    terminal.write(table)
    if file:
        Path(file).write_text(table, encoding="utf-8")
