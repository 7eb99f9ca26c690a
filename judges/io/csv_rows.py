"""Reading of delimited tables (CSV, TSV) row by row, with cells of any length and quotes that stay open detected."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import IO, Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_rows import LocatedRow, TextRow, UnreadableRowError, describe_damage
from flex_judge.judges.validation.text_files import BAD_BYTE, get_format_suffix, open_text

CSV_SUFFIXES = (".csv", ".tsv")
_END = "end of the table"
"""Line that is added to a table, to find out whether its last quote is closed."""
_DELIMITER_LINE = re.compile(r'"?sep=(.)"?\s*')
"""First line by which Excel states the delimiter."""
_MAX_CELL = 2**31 - 1
_field_limit_lock = Lock()


def read_csv_rows(path: Path, columns: Sequence[str] = (), name: str | None = None) -> Iterator[LocatedRow]:
    """Read the rows of a delimited table.

    The delimiter is a tab, a comma, `|` or `;`, whichever the first line contains first in this order (a `.tsv` file
    has no commas). Rows are numbered from 1, without the header and without empty lines.

    Args:
        path: the file.
        columns: names of the columns of tables that have no header.
        name: name of the file for messages; None for its path.

    Yields:
        Each row as a TextRow, or the error of a row that cannot be read.

    Raises:
        UsageError: the file cannot be read or has no valid header.
    """
    name = name or str(path)
    number = 0
    try:
        with open_text(path, errors="flex_judge.bad_bytes") as file:
            for row in _read_rows(path, file, columns, name):
                number += 1
                yield row
    except UsageError as e:
        if not number:
            raise
        yield describe_damage(f"{name}, row {number + 1}", e)


def _read_rows(path: Path, file: IO[str], columns: Sequence[str], name: str) -> Iterator[LocatedRow]:
    lines = _skip_empty_lines(file)
    first_line = next(lines, "").removeprefix("\ufeff")
    if not first_line.strip("\r\n"):
        return
    if stated := _DELIMITER_LINE.fullmatch(first_line):
        delimiter, first_line = stated[1], next(lines, "")
    else:
        delimiter = _find_delimiter(path, first_line)
    records = _split_records(chain([first_line], lines), delimiter, name)
    names, header = [column.strip() for column in columns], None
    first_record = next(records, None)
    if isinstance(first_record, UsageError):
        raise first_record
    # Some releases of the same table have a header and some do not: a header contains no number.
    if not names or not any(map(_is_number, first_record or ())):
        header = [cell.strip() for cell in first_record or ()]
        names = names or header
        first_record = None
    _check_names(names, name)
    for number, cells in enumerate(chain([first_record] if first_record else [], records), 1):
        where = f"{name}, row {number}"
        if isinstance(cells, UsageError):
            yield where, UsageError(f"{where}: {cells}")
        else:
            yield where, _make_row(cells, names, where, delimiter if names is header else None)


def _skip_empty_lines(file: Iterable[str]) -> Iterator[str]:
    """Skip empty lines before the first line with text."""
    has_started = False
    for line in file:
        has_started = has_started or bool(line.removeprefix("\ufeff").strip("\r\n"))
        if has_started:
            yield line


def _find_delimiter(path: Path, first_line: str) -> str:
    comma = "," if get_format_suffix(path) != ".tsv" and "," in first_line else ""
    return next((d for d in "\t" + comma + "|;" if d in first_line), ",")


def _check_names(names: Sequence[str], name: str) -> None:
    for column in names:
        if column and names.count(column) > 1:
            raise UsageError(f"{name}: has two columns {column!r}; rename one")
        if BAD_BYTE in column:
            raise UsageError(f"{name}: the header is not UTF-8 text; save the file as UTF-8")


def _make_row(cells: Sequence[str], names: Sequence[str], where: str, delimiter: str | None) -> TextRow | UsageError:
    """Make a row of its cells; with a header (and so a delimiter for the message), it must not have more of them."""
    if delimiter is not None and any(cell.strip() for cell in cells[len(names) :]):
        return UsageError(
            f"{where}: has {len(cells)} cells, but there are {len(names)} columns; put quotes around cells that "
            f"contain {delimiter!r}"
        )
    data = TextRow(zip(names, cells, strict=False))
    bad_names = [column for column, cell in data.items() if BAD_BYTE in cell]
    if bad_names:
        readable = TextRow({column: None if column in bad_names else cell for column, cell in data.items()})
        problems = dict.fromkeys(bad_names, "not UTF-8 text; save the file as UTF-8")
        return UnreadableRowError.from_fields(where, readable, problems)
    return data


def _split_records(lines: Iterable[str], delimiter: str, name: str) -> Iterator[list[str] | UsageError]:
    """Split lines into records of cells, without empty ones; the last one may be an error."""
    reader = csv.reader(chain(lines, [_END]), delimiter=delimiter)
    previous: list[str] | None = None
    while True:
        try:
            record = _read_record(reader)
        except csv.Error as e:
            yield UsageError(f"not a table: {e}; the rest of {name} cannot be read")
            return
        if record is None:
            break
        if previous:
            yield previous
        previous = record
    if previous != [_END]:
        # The quote turns the rest of the file into one cell, and its rows would be lost.
        yield UsageError("a quote is not closed; write quotes inside of cells twice")


def _read_record(reader: Any) -> list[str] | None:
    """Read one record with cells of any length; None at the end of the table."""
    # The limit of the module, 131,072 characters, holds for the whole process, so it is raised only for this record.
    with _field_limit_lock:
        limit = csv.field_size_limit(_MAX_CELL)
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(limit)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
