"""The parts of a report: metrics, tables, sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"
"""Text for a value that was not measured."""


@dataclass(frozen=True)
class MetricValue:
    """A measured number, its uncertainty and its format.

    Example:
        >>> str(Metric(0.245, low=0.191, high=0.309, scale=100, digits=1, unit=" %"))
        '24.5 % (19.1 to 30.9)'
    """

    value: float | None
    low: float | None = None
    """Lower bound of the 95 % interval."""
    high: float | None = None
    deviation: float | None = None
    """Standard deviation. Printed after ±, unless it is 0."""
    scale: float = 1.0
    """Factor for printing: 100 for a share that is printed in percent."""
    digits: int = 2
    unit: str = ""
    sign: str = ""
    """`+` prints the sign of positive numbers too."""

    @classmethod
    def from_estimate(cls, estimate: Mapping[str, Any], **form: Any) -> MetricValue:
        """Read an estimate from JSON: `value` or `mean`, and optionally `low`, `high` and `deviation`."""
        value = estimate["mean"] if "mean" in estimate else estimate["value"]
        return cls(value, estimate.get("low"), estimate.get("high"), estimate.get("deviation"), **form)

    @property
    def bounds(self) -> str:
        """The interval, as `19.1 to 30.9`; empty if there is none."""
        return (
            ""
            if self.low is None or self.high is None
            else f"{self._format_value(self.low)} to {self._format_value(self.high)}"
        )

    def __str__(self) -> str:
        if self.value is None:
            return MISSING
        text = f"{self._format_value(self.value, self.sign)}{self.unit}"
        if self.deviation:
            text += f" ± {self._format_value(self.deviation)}"
        return f"{text} ({self.bounds})" if self.bounds else text

    def _format_value(self, value: float, sign: str = "") -> str:
        return f"{self.scale * value:{sign}.{self.digits}f}"


def as_percent(value: float | Mapping[str, Any] | None) -> MetricValue:
    """A share, or an estimate of one, in percent with one decimal: `41.7 %`."""
    return as_number(value, scale=100, digits=1, unit=" %")


def as_number(value: float | Mapping[str, Any] | None, **form: Any) -> MetricValue:
    """A number, or an estimate of one, with two decimals unless `form` gives other fields of `Metric`."""
    return MetricValue.from_estimate(value, **form) if isinstance(value, Mapping) else MetricValue(value, **form)


Cell = str | int | MetricValue | None
TableRow = Sequence[Cell]
RULE: TableRow = ()
"""A row that stands for a horizontal line in the terminal and is left out elsewhere."""


def format_cell(cell: Cell) -> str:
    """The text of a cell: whole numbers with thousands separators, nothing for None."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers."""

    columns: Sequence[str]
    """Column titles. A table without any title has no header in the terminal."""
    rows: Iterable[TableRow]
    title: str = ""
    note: str = ""
    """A sentence below the table."""
    text_columns: int = 1
    """Number of leading columns that hold text and are aligned to the left; the others are aligned to the right."""
    highlight: int | None = None
    """Index of a row to emphasize on a page."""
    bars: bool = False
    """Whether a page draws a bar before each metric."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(self.rows))


@dataclass(frozen=True)
class Note:
    """A paragraph of secondary importance."""

    text: str


@dataclass(frozen=True)
class Figure:
    """A plot."""

    svg: str
    caption: str = ""
    note: str = ""


Block = str | Note | Table | Figure
"""A string is a paragraph: Markdown in a card, plain text on a page."""


@dataclass(frozen=True)
class Section:
    """A heading and what follows it."""

    title: str
    blocks: Iterable[Block]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))


@dataclass(frozen=True)
class Report:
    """A title, an introduction and sections."""

    title: str
    intro: Iterable[Block]
    sections: Iterable[Section]

    def __post_init__(self) -> None:
        object.__setattr__(self, "intro", tuple(self.intro))
        object.__setattr__(self, "sections", tuple(self.sections))
