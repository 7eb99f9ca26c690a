"""Reports: metrics with their uncertainty, tables and sections, independent of the output format.

`markdown` renders them for model cards and data cards. `flex_judge.experiments.common.reporting` renders them for the
terminal and for HTML pages. Imports nothing but the standard library.
"""

from flex_judge.alignment.reporting.markdown import code, one_line, to_markdown
from flex_judge.alignment.reporting.model import (
    RULE,
    Block,
    Cell,
    Figure,
    Metric,
    Note,
    Report,
    Row,
    Section,
    Table,
    cell_text,
    number,
    percent,
)

__all__ = [
    "RULE",
    "Block",
    "Cell",
    "Figure",
    "Metric",
    "Note",
    "Report",
    "Row",
    "Section",
    "Table",
    "cell_text",
    "code",
    "number",
    "one_line",
    "percent",
    "to_markdown",
]
