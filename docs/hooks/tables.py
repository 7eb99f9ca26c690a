"""Markdown tables and source comments, for the pages that the hook generates."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import tokenize
from collections.abc import Iterable, Sequence
from io import StringIO
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
    """Read the description of each member of an enumeration: the docstring below it, or the comment after it."""
    source = textwrap.dedent(inspect.getsource(cls))
    comments: dict[int, str] = {}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    (node,) = ast.parse(source).body
    assert isinstance(node, ast.ClassDef)
    descriptions: dict[str, str] = {}
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        match statement, following:
            case ast.Assign(targets=[ast.Name(id=name)]), ast.Expr(value=ast.Constant(value=str(docstring))):
                descriptions[name] = first_paragraph(docstring)
            case ast.Assign(targets=[ast.Name(id=name)]), _:
                descriptions[name] = comments.get(statement.lineno, "")
    return descriptions
