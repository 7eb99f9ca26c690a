"""Markdown tables and docstrings, for the pages that the hook generates."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

_FLAG = re.compile(r"(?<![\w`-])(--[a-z][\w-]*)(?![^`]*`(?:[^`]*`[^`]*`)*[^`]*$)")
"""A flag outside of inline code: an even number of backticks follows."""
_MARKUP = re.compile(r"([\\*_{}\[\]])")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table. Cells are Markdown; line breaks and bars in them are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(escape_cell, cells))} |" for cells in lines) + "\n"


def escape_cell(text: str) -> str:
    """Put a text on one line and escape the bars that would end the cell. Bars in inline code do not."""
    pieces = " ".join(text.split()).split("`")
    pieces[::2] = [piece.replace("|", "\\|") for piece in pieces[::2]]
    return "`".join(pieces)


def code(text: object) -> str:
    """Format a text as inline code, empty for an empty text."""
    return f"`{text}`" if str(text) else ""


def text(plain: str) -> str:
    """Format plain text as Markdown: flags become code, code stays code, and nothing else is markup."""
    plain = _FLAG.sub(r"`\1`", plain)
    pieces = plain.split("`")
    pieces[::2] = [_MARKUP.sub(r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]]
    return "`".join(pieces)


def first_paragraph(docstring: str | None) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())


def describe_members(cls: type[Any]) -> dict[str, str]:
    """Read the docstrings below the members of an enumeration; members without one are left out."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    descriptions: dict[str, str] = {}
    for statement, following in itertools.pairwise(node.body):
        match statement, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(docstring))):
                descriptions[name] = first_paragraph(docstring)
    return descriptions
