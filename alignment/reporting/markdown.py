"""Markdown output of reports, for model cards and data cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flex_judge.alignment.reporting.model import Block, Cell, Figure, Note, Report, Table, format_cell


def to_markdown(content: Report | Table) -> str:
    """Render a report or a table as Markdown that ends with a newline.

    Raises:
        TypeError: the report contains a figure, which cards do not support.
    """
    if isinstance(content, Table):
        return _render_table(content) + "\n"
    return "\n\n".join(_render_parts(content)) + "\n"


def join_lines(text: str) -> str:
    """Join the lines of an external text, so that it cannot end a paragraph or a table row."""
    return " ".join(text.split())


def format_code(text: str) -> str:
    """Format an external text as inline code; backticks become apostrophes."""
    return f"`{join_lines(text).replace('`', chr(39))}`"


def _render_parts(report: Report) -> Iterator[str]:
    yield f"# {join_lines(report.title)}"
    yield from map(_render_block, report.intro)
    for section in report.sections:
        yield f"## {section.title}"
        yield from map(_render_block, section.blocks)


def _render_block(block: Block) -> str:
    if isinstance(block, Figure):
        raise TypeError("a card cannot hold a figure; put it on a page")
    if isinstance(block, Table):
        return _render_table(block)
    return block.text if isinstance(block, Note) else block


def _render_table(table: Table) -> str:
    rule = "|".join("---" if i < table.text_columns else "---:" for i in range(len(table.columns)))
    lines = [_render_row(table.columns), f"|{rule}|", *(_render_row(row) for row in table.rows if row)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def _render_row(cells: Sequence[Cell]) -> str:
    # A bar inside a cell would start a new column.
    return "| " + " | ".join(format_cell(cell).replace("|", "\\|") for cell in cells) + " |"
