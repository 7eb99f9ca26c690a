"""What a bench found, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flex_judge.alignment.reporting.model import RULE, Table
from flex_judge.experiments.common.reporting.terminal import print_table


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
    lists = {name: value for name, value in result.details.items() if isinstance(value, list)}
    plain = [(_format_name(name), _format_value(value)) for name, value in result.details.items() if name not in lists]
    goal = [(name, _format_value(getattr(result, name))) for name in ("ratio", "goal", "met")]
    print_table(Table(("", ""), [*goal, RULE, *plain], f"bench {result.name}"))
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
