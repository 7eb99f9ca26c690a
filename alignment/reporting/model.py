"""Data types of a report: metrics, tables, sections."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = "–"
"""Text for a value that was not measured."""


@dataclass(frozen=True)
class MetricValue:
    """Measured number with its uncertainty and output format.

    Example:
        >>> str(MetricValue(0.245, low=0.191, high=0.309, scale=100, digits=1, unit=" %"))
        '24.5 % (19.1 to 30.9)'
    """

    value: float | None
    """The number; None if it was not measured."""
    low: float | None = None
    """Lower bound of the 95 % confidence interval."""
    high: float | None = None
    """Upper bound of the 95 % confidence interval."""
    deviation: float | None = None
    """Standard deviation, printed after ± unless it is 0."""
    scale: float = 1.0
    """Factor for printing: 100 for a share that is printed in percent."""
    digits: int = 2
    """Number of decimals."""
    unit: str = ""
    """Text after the number, including a leading space."""
    sign: str = ""
    """`+` prints the sign of positive numbers too."""

    @classmethod
    def from_estimate(cls, estimate: Mapping[str, Any], **form: Any) -> MetricValue:
        """Create a metric from an estimate in JSON.

        Args:
            estimate: `value` or `mean`, and optionally `low`, `high` and `deviation`.
            **form: other fields, which set the output format.
        """
        value = estimate["mean"] if "mean" in estimate else estimate["value"]
        return cls(value, estimate.get("low"), estimate.get("high"), estimate.get("deviation"), **form)

    @property
    def bounds(self) -> str:
        """Confidence interval, such as `19.1 to 30.9`; empty without one."""
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
    """Format a share, or an estimate of one, in percent with one decimal: `41.7 %`."""
    return as_number(value, scale=100, digits=1, unit=" %")


def as_number(value: float | Mapping[str, Any] | None, **form: Any) -> MetricValue:
    """Format a number, or an estimate of one.

    Args:
        value: number, estimate in JSON, or None.
        **form: fields of `MetricValue` that change the format; the default has two decimals.
    """
    return MetricValue.from_estimate(value, **form) if isinstance(value, Mapping) else MetricValue(value, **form)


Cell = str | int | MetricValue | None
TableRow = Sequence[Cell]
RULE: TableRow = ()
"""Empty row: a horizontal line in the terminal, omitted in other formats."""


def format_cell(cell: Cell) -> str:
    """Format a cell: integers with thousands separators, None as empty text."""
    if isinstance(cell, int):
        return f"{cell:,}"
    return "" if cell is None else str(cell)


@dataclass(frozen=True)
class Table:
    """Table with rows of text and numbers."""

    columns: Sequence[str]
    """Column titles. A table without any title has no header in the terminal."""
    rows: Iterable[TableRow]
    """Rows of cells, or RULE."""
    title: str = ""
    """Title above the table."""
    note: str = ""
    """Sentence below the table."""
    text_columns: int = 1
    """Number of leading columns with text, aligned left; other columns are aligned right."""
    highlight: int | None = None
    """Index of a row to emphasize on HTML pages."""
    bars: bool = False
    """Whether HTML pages draw a bar before each metric."""

    def __post_init__(self) -> None:
        # Tables are frozen, and generators are stored as tuples so that a table can be rendered several times.
        object.__setattr__(self, "rows", tuple(self.rows))


@dataclass(frozen=True)
class Note:
    """Paragraph of secondary importance."""

    text: str


@dataclass(frozen=True)
class Figure:
    """Plot as SVG."""

    svg: str
    """SVG source."""
    caption: str = ""
    """Title of the figure."""
    note: str = ""
    """Sentence below the figure."""


def name_option(index: int) -> str:
    """Name a response by a letter: `A` for index 0, `B` for 1, `AA` after `Z`.

    Example:
        >>> name_option(27)
        'AB'
    """
    rest, letter = divmod(index, 26)
    return (name_option(rest - 1) if rest else "") + chr(ord("A") + letter)


Block = str | Note | Table | Figure
"""Content block. A string is a paragraph: Markdown in cards, plain text on HTML pages."""


@dataclass(frozen=True)
class Section:
    """Heading with the blocks below it."""

    title: str
    """Text of the heading."""
    blocks: Iterable[Block]
    """Paragraphs, notes, tables and figures."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))


@dataclass(frozen=True)
class Report:
    """Report with title, introduction and sections."""

    title: str
    """Title of the report."""
    intro: Iterable[Block]
    """Blocks before the first section."""
    sections: Iterable[Section]

    def __post_init__(self) -> None:
        object.__setattr__(self, "intro", tuple(self.intro))
        object.__setattr__(self, "sections", tuple(self.sections))
