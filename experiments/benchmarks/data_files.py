"""Readers for the file formats of benchmark releases: JSON, JSON lines, Parquet and delimited tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt")
LocatedRows = Iterator[tuple[str, Mapping[str, Any]]]
"""Rows with their location (file and row) for error messages."""


def read_data_file(path: Path, columns: Sequence[str] = ()) -> LocatedRows:
    """Read the rows of a file whose suffix is in DATA_SUFFIXES.

    Args:
        path: The file.
        columns: Column names for tables without a header.

    Raises:
        UsageError: The file cannot be read or is malformed.
    """
    readers: dict[str, Callable[[Path, Sequence[str]], LocatedRows]] = {
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_csv,
    }
    return readers[path.suffix](path, columns) if path.suffix in readers else read_table(path)


def _read_json(path: Path, _: Sequence[str]) -> LocatedRows:
    try:
        value = json.loads(path.read_bytes())
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        problem = getattr(e, "msg", str(e))
        hint = "; if each line is an object, rename the file to .jsonl" if problem == "Extra data" else ""
        raise UsageError(f"{path}: not JSON ({problem}){hint}") from e
    # Some releases wrap their list of rows in an object.
    lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else [value]
    rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise UsageError(f"{path}: expected a list of rows, got {type(value).__name__}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, row {number}: expected a JSON object, got {type(row).__name__}")
        yield f"{path}, row {number}", row


def _read_csv(path: Path, columns: Sequence[str]) -> LocatedRows:
    try:
        # Some tables start with a byte-order mark, which utf-8-sig drops.
        with path.open(encoding="utf-8-sig", newline="") as file:
            first_line = file.readline()
            file.seek(0)
            delimiter = "\t" if "\t" in first_line else "|" if "|" in first_line and "," not in first_line else ","
            reader = csv.reader(file, delimiter=delimiter)
            names = list(columns)
            # Some releases of the same table have a header and some do not: a header contains no number.
            first_cells = next(csv.reader([first_line], delimiter=delimiter), [])
            if not names or not any(map(_is_number, first_cells)):
                header = next(reader, [])
                names = names or header
            for number, cells in enumerate(reader, 1):
                if cells:
                    yield f"{path}, row {number}", dict(zip(names, cells, strict=False))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{path}: not a table in UTF-8: {e}") from e


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
