"""Reports in the terminal, printed with rich."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.reporting.model import RULE, Table, TableRow, format_cell
from flex_judge.experiments.common.reporting.wording import format_duration

if TYPE_CHECKING:
    from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def open_console(*, stderr: bool = False) -> Console:
    """Open a rich console that does not wrap lines of piped output."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, soft_wrap=not stream.isatty())


def print_table(table: Table) -> None:
    """Print a table to standard output; markup and control codes in model output have no effect."""
    from rich.table import Table as RichTable
    from rich.text import Text

    has_header = any(table.columns)
    grid = RichTable(
        title=Text(escape_control_characters(table.title)) if table.title else None,
        caption=Text(table.note) if table.note else None,
        show_header=has_header,
        min_width=None if has_header else 60,
    )
    for i, column in enumerate(table.columns):
        is_text = i < table.text_columns
        grid.add_column(
            Text(escape_control_characters(column)),
            justify="left" if is_text else "right",
            overflow="fold",
            style="bold" if i == 0 and not has_header else None,
            min_width=_name_width(table) if i == 0 and has_header else None,
        )
    for row in table.rows:
        if row:
            grid.add_row(*(Text(escape_control_characters(format_cell(cell))) for cell in row))
        else:
            grid.add_section()
    open_console().print(grid)


def _name_width(table: Table) -> int:
    """Return the column width, up to 30 characters, that keeps row names on one line in a narrow terminal."""
    lines = [line for row in table.rows if row for line in format_cell(row[0]).splitlines()]
    return min(30, max(map(len, lines), default=0))


def print_run(title: str, summary: Mapping[str, Any], *groups: Iterable[TableRow]) -> None:
    """Print the results of a run: groups of named values, separated by rules, and the total time."""
    rows = [row for group in groups for row in (*group, RULE)]
    print_table(
        Table(("", ""), [*rows, ("Total time, all starts", format_duration(summary["seconds"]["total"]))], title)
    )


def escape_control_characters(text: str) -> str:
    """Escape control characters in model output, so that the terminal shows them instead of executing them."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
