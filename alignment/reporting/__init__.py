"""Reports: metrics with uncertainty, tables and sections, independent of the output format.

`markdown` renders them for model cards and data cards. `flex_judge.experiments.common.reporting` renders them for the
terminal and for HTML pages. Imports nothing but the standard library.
"""

from flex_judge.alignment.reporting.markdown import format_code, join_lines, to_markdown
from flex_judge.alignment.reporting.model import (
    RULE,
    Block,
    Cell,
    Figure,
    MetricValue,
    Note,
    Report,
    Section,
    Table,
    TableRow,
    as_number,
    as_percent,
    format_cell,
)

__all__ = [
    "RULE",
    "Block",
    "Cell",
    "Figure",
    "MetricValue",
    "Note",
    "Report",
    "Section",
    "Table",
    "TableRow",
    "as_number",
    "as_percent",
    "format_cell",
    "format_code",
    "join_lines",
    "to_markdown",
]
