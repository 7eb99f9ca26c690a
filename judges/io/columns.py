"""Mapping of the columns of a table to the fields that commands read, and conversion of cells that are text."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.errors import UsageError, find_similar_name, suggest_name
from flex_judge.judges.io.json_rows import MAX_DEPTH, LocatedRow, NeedsColumn, TextRow
from flex_judge.judges.validation.json_structure import is_deeper

LISTS = ("responses", "images", "videos", "audios", "molecules", "tools", "score", "scores", "reference_scores")
"""Fields that hold lists. Several columns can be mapped to one of them, and then are its elements."""
_STRUCTURES = (*LISTS, "image", "video", "audio", "molecule", "provenance", "labels")
"""Fields in which the text of a list or an object stands for the list or the object."""
_NUMBERS = ("score", "scores", "reference_scores")
_CONVERSATIONS = ("prompt", "chosen", "rejected", "completion", "response", "baseline", "reference")
"""Fields that hold text or messages; only the text of a list of messages is read as one."""
_ANSWERS = re.compile(r"responses|chosen|rejected|completion|response|baseline|answer\d+_body")
"""Fields in which an empty cell is an empty text and not a missing value."""


@dataclass(frozen=True)
class ColumnMapping:
    """Mapping of fields to columns, as `--column FIELD=COLUMN` gives it.

    Example:
        >>> mapping = ColumnMapping.from_arguments(["responses=a", "responses=b"], ["prompt", "responses"])
        >>> mapping.map_row("file, row 1", {"prompt": "Q", "a": "1", "b": "2"})["responses"]
        ['1', '2']
    """

    columns: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Fields, each with its columns: one, or several for a list."""

    @classmethod
    def from_arguments(cls, arguments: Iterable[str], fields: Sequence[str] | None = None) -> ColumnMapping:
        """Create the mapping from command-line arguments.

        Args:
            arguments: texts of the form `FIELD=COLUMN`. A field that holds a list may occur several times.
            fields: fields that exist; None if any may be mapped.

        Raises:
            UsageError: an argument has another form, or its field is unknown or occurs twice.
        """
        columns: dict[str, tuple[str, ...]] = {}
        for text in arguments:
            field, equals, column = text.partition("=")
            if not equals or not field or not column:
                names = f" with a field of {', '.join(fields)}" if fields else ""
                raise UsageError(f"--column {text}: expected FIELD=COLUMN{names}")
            if fields is not None and field not in fields:
                raise UsageError(f"--column {text}: there is no field {field!r}; {suggest_name(field, fields)}")
            if field in columns and field not in LISTS:
                raise UsageError(f"--column {text}: {field!r} has the column {columns[field][0]!r} already; remove one")
            columns[field] = (*columns.get(field, ()), column)
        return cls(tuple(columns.items()))

    def __bool__(self) -> bool:
        return bool(self.columns)

    def list_columns(self) -> list[str]:
        """List all columns that are mapped to a field."""
        return [column for _, columns in self.columns for column in columns]

    def wrap_needs(self, needs: NeedsColumn) -> NeedsColumn:
        """Return a function that needs the columns of needed fields, and unmapped columns that `needs` needs."""
        mapped = {column for field, columns in self.columns if needs(field) for column in columns}
        return lambda name: name in mapped or needs(name)

    def map_row(self, where: str, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """Add the mapped fields to a row, and convert the cells of a table of text.

        A mapped column keeps its own name too. A column that a row does not have gives no field.

        Args:
            where: file and row, for messages.
            row: the row as read.

        Raises:
            UsageError: a row lacks one of several columns that form a list.
        """
        mapped = dict(row)
        for field, columns in self.columns:
            mapped.pop(field, None)
            present = [column for column in columns if column in row]
            if len(columns) == 1 and present:
                value = row[columns[0]]
                # A single response needs no list around it.
                mapped[field] = [value] if field == "responses" and _is_plain(value) else value
            elif len(columns) > 1:
                if len(present) < len(columns):
                    missing = next(column for column in columns if column not in row)
                    raise UsageError(f"{where}: {describe_missing_column(missing, row)}")
                mapped[field] = [row[column] for column in columns]
        return read_cells(TextRow(mapped)) if isinstance(row, TextRow) else mapped

    def map_rows(self, rows: Iterable[LocatedRow]) -> Iterator[LocatedRow]:
        """Map all rows of a table, see `map_row`.

        Raises:
            UsageError: no row has one of the mapped columns.
        """
        missing, names, first = dict.fromkeys(self.list_columns()), dict[str, None](), ""
        for where, row in rows:
            if isinstance(row, UsageError):
                missing.clear()  # the columns of this row are not known
                yield where, row
                continue
            first = first or where
            names |= dict.fromkeys(row)
            for column in [column for column in missing if column in row]:
                del missing[column]
            try:
                yield where, self.map_row(where, row)
            except UsageError as e:
                yield where, e
        if missing:
            raise UsageError(f"{first}: {describe_missing_column(next(iter(missing)), names)}")


NO_MAPPING = ColumnMapping()
"""Mapping of a table whose columns have the names of the fields."""


def describe_missing_column(column: str, existing: Iterable[str]) -> str:
    """Describe a column of `--column` that does not exist."""
    names = [name for name in existing if name]
    similar = find_similar_name(column, names)
    hint = f"; did you mean {similar!r}?" if similar else ""
    return f"has no column {column!r}; the columns are {', '.join(names)}{hint}"


def read_cells(row: Mapping[str, Any], fields: Mapping[str, str] | None = None) -> Mapping[str, Any]:
    """Convert the cells of a table of text to the values that their fields need; other rows are returned unchanged.

    Lists and objects are read from JSON, or from Python's notation, which pandas writes, where the field holds one; in
    a prompt or an answer only a list of messages is. Numbers stay text. An empty cell is a missing value, except in
    answers.

    Args:
        row: the row.
        fields: column -> field, for columns that have another name than their field.
    """
    if not isinstance(row, TextRow):
        return row
    return {column: _convert_cell((fields or {}).get(column, column), cell) for column, cell in row.items()}


def parse_literal(text: str) -> Any:
    """Parse a list or another value in the notation of JSON or Python; None if the text is in neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _convert_cell(field: str, cell: Any) -> Any:
    if isinstance(cell, list):  # of the cells of several columns
        element = {"responses": "response"}.get(field, field)
        values = [_convert_cell(element, value) for value in cell]
        return values if field in ("responses", *_NUMBERS) else [value for value in values if value is not None]
    if not isinstance(cell, str):
        return cell
    if not cell.strip():
        return cell if _ANSWERS.fullmatch(field) and field != "responses" else None
    if field in _NUMBERS:
        number = _parse_number(cell)
        if number is not None:
            return number
    if field in _STRUCTURES:
        value = _parse_structure(cell, "[{")
        return cell if value is None else value
    if field in _CONVERSATIONS:
        value = _parse_structure(cell, "[")
        if value and all(isinstance(message, dict) and "role" in message for message in value):
            return value
    return cell


def _parse_structure(cell: str, starts: str) -> Any:
    """Parse a list or an object; None if the cell holds something else."""
    if not cell.lstrip().startswith(tuple(starts)):
        return None
    value = parse_literal(cell.strip())
    return value if isinstance(value, list | dict) and not is_deeper(value, MAX_DEPTH) else None


def _parse_number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _is_plain(value: Any) -> bool:
    """Return whether a value is the text of a single response, not of a list."""
    return isinstance(value, str) and _parse_structure(value, "[") is None
