"""Readers for the file formats of benchmark releases: JSON, JSON lines, Parquet and delimited tables."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import LocatedRow, PartialRow, UnreadableRowError
from flex_judge.judges.validation.text_files import BAD_BYTE, get_format_suffix, open_text

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt")
LocatedRows = Iterator[tuple[str, Mapping[str, Any]]]
"""Rows with their location (file and row) for error messages."""
_field_limit_lock = Lock()
_END = "end of the table"
"""Line that is added to a table, to find out whether its last quote is closed."""


def read_data_file(path: Path, columns: Sequence[str] = ()) -> LocatedRows:
    """Read the rows of a file whose ending (see `get_format_suffix`) is in DATA_SUFFIXES.

    A value that cannot be read raises its error when it is accessed, so that it does no harm in an unused field.

    Args:
        path: The file.
        columns: Column names for tables without a header.

    Raises:
        UsageError: The file cannot be read or is malformed.
    """
    is_csv = get_format_suffix(path) in (".csv", ".tsv", ".txt")
    for where, row in _read_csv(path, columns) if is_csv else read_table(path, unwrap=True):
        if isinstance(row, UnreadableRowError):
            yield where, PartialRow(row)
        elif isinstance(row, UsageError):
            raise row
        else:
            yield where, row


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[LocatedRow]:
    with open_text(path, errors="flex_judge.bad_bytes") as file:
        text = file.read().removeprefix("\ufeff").lstrip("\r\n")
    if not text:
        return
    first_line = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = "," if get_format_suffix(path) != ".tsv" and "," in first_line else ""
    delimiter = next((d for d in "\t" + delimiter + "|;" if d in first_line), ",")
    rows = _split_cells(path, text, delimiter)
    names, header = list(columns), None
    # Some releases of the same table have a header and some do not: a header contains no number.
    if not names or not any(map(_is_number, rows[0])):
        header = rows.pop(0)
        names = names or header
    repeated = [name for name in names if name and names.count(name) > 1]
    if repeated:
        raise UsageError(f"{path}: has two columns {repeated[0]!r}; rename one")
    for number, cells in enumerate(rows, 1):
        if not cells:
            continue
        where = f"{path}, row {number}"
        data = dict(zip(names, cells, strict=False))
        if names is header and any(cell.strip() for cell in cells[len(names) :]):
            raise UsageError(
                f"{where}: has {len(cells)} cells, but there are {len(names)} columns; put quotes around cells that "
                f"contain {delimiter!r}"
            )
        bad_names = [name for name, cell in data.items() if BAD_BYTE in cell]
        if bad_names:
            yield where, UnreadableRowError.from_fields(where, data, dict.fromkeys(bad_names, "not UTF-8 text"))
        else:
            yield where, data


def _split_cells(path: Path, text: str, delimiter: str) -> list[list[str]]:
    """Split a table into rows of cells of any length."""
    # The limit of the module, 131,072 characters, holds for the whole process, so it is raised only for this table.
    with _field_limit_lock:
        limit = csv.field_size_limit(len(text) + len(_END) + 2)
        try:
            reader = csv.reader(io.StringIO(f"{text}\n{_END}", newline=""), delimiter=delimiter)
            rows = list(reader)
        except csv.Error as e:
            raise UsageError(f"{path}, line {reader.line_num}: not a table: {e}") from e
        finally:
            csv.field_size_limit(limit)
    if rows.pop() != [_END]:
        # The quote turns the rest of the file into one cell, and its rows would be lost.
        raise UsageError(f"{path}, row {len(rows)}: a quote is not closed; write quotes inside of cells twice")
    return rows


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
