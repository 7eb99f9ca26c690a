"""What a bench found, for programs and for people."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class BenchResult:
    name: str
    """Name of the bench, as on the command line."""
    ratio: float
    """The measured ratio of the two sides."""
    goal: float
    """What the ratio is held against."""
    met: bool
    """Whether the ratio and all that the bench asks besides meet their goals."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Figures behind the ratio: plain values, and lists of rows of plain values."""

    def to_json(self) -> dict[str, Any]:
        """Exactly the keys name, ratio, goal, met and details."""
        return {
            "name": self.name,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.met,
            "details": dict(self.details),
        }


def print_result(result: BenchResult) -> None:
    """Print a table of the result and its plain details, then one for each list of rows, to standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    lists = {name: value for name, value in result.details.items() if isinstance(value, list)}
    table = Table(title=f"bench {result.name}", show_header=False, min_width=40)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in (("ratio", result.ratio), ("goal", result.goal), ("met", result.met)):
        table.add_row(name, _shown(value))
    table.add_section()
    for name, value in result.details.items():
        if name not in lists:
            table.add_row(_words(name), _shown(value))
    console.print(table)
    for name, rows in lists.items():
        table = Table(title=_words(name), min_width=40)
        columns = list(rows[0]) if rows else []
        for column in columns:
            table.add_column(_words(column), justify="right")
        for row in rows:
            table.add_row(*(_shown(row[column]) for column in columns))
        console.print(table)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{round(value, 3):g}" if isinstance(value, float) else str(value)
