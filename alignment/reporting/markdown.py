"""Reports as Markdown, for model cards and data cards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flex_judge.alignment.reporting.model import Block, Cell, Figure, Note, Report, Table, cell_text


def to_markdown(content: Report | Table) -> str:
    """Render a report or a table. The text ends with a newline.

    Raises:
        TypeError: the report holds a figure, which a card has no place for.
    """
    if isinstance(content, Table):
        return _table(content) + "\n"
    return "\n\n".join(_parts(content)) + "\n"


def one_line(text: str) -> str:
    """Join the lines of a text from elsewhere, so that it cannot end a paragraph or a table row."""
    return " ".join(text.split())


def code(text: str) -> str:
    """A text from elsewhere as inline code."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {one_line(report.title)}"
    yield from map(_block, report.intro)
    for section in report.sections:
        yield f"## {section.title}"
        yield from map(_block, section.blocks)


def _block(block: Block) -> str:
    if isinstance(block, Figure):
        raise TypeError("a card cannot hold a figure; put it on a page")
    if isinstance(block, Table):
        return _table(block)
    return block.text if isinstance(block, Note) else block


def _table(table: Table) -> str:
    rule = "|".join("---" if i < table.text_columns else "---:" for i in range(len(table.columns)))
    lines = [_row(table.columns), f"|{rule}|", *(_row(row) for row in table.rows if row)]
    return "\n".join(lines) + (f"\n\n{table.note}" if table.note else "")


def _row(cells: Sequence[Cell]) -> str:
    return "| " + " | ".join(cell_text(cell).replace("|", "\\|") for cell in cells) + " |"
