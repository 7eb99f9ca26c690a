"""Result of a bench, as JSON and as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flex_judge.alignment.reporting.model import RULE, Table
from flex_judge.experiments.common.reporting.terminal import print_table


@dataclass(frozen=True)
class BenchResult:
    """Measured ratio of a bench, its goal, and the values behind it."""

    name: str
    """Name of the bench, as on the command line."""
    ratio: float
    """Measured ratio of the two sides."""
    goal: float
    """Goal of the ratio."""
    met: bool
    """Whether the ratio and all secondary goals of the bench are met."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Values behind the ratio: plain values, and lists of rows of plain values."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with exactly the keys name, ratio, goal, met and details."""
        return {
            "name": self.name,
            "ratio": self.ratio,
            "goal": self.goal,
            "met": self.met,
            "details": dict(self.details),
        }


def print_result(result: BenchResult) -> None:
    """Print one table with the result and its plain details, then one per list of rows, to standard output."""
    lists = {name: value for name, value in result.details.items() if isinstance(value, list)}
    plain = [(_format_name(name), _format_value(value)) for name, value in result.details.items() if name not in lists]
    summary = [(name, _format_value(getattr(result, name))) for name in ("ratio", "goal", "met")]
    print_table(Table(("", ""), [*summary, RULE, *plain], f"bench {result.name}"))
    for name, rows in lists.items():
        columns = list(rows[0]) if rows else []
        cells = [[_format_value(row[column]) for column in columns] for row in rows]
        print_table(Table([_format_name(column) for column in columns], cells, _format_name(name), text_columns=0))


def _format_name(name: str) -> str:
    return name.replace("_", " ")


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{round(value, 3):g}" if isinstance(value, float) else str(value)
