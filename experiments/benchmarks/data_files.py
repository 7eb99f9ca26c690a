"""Readers for the file formats of benchmark releases: JSON, JSON lines, Parquet and delimited tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.csv_rows import read_csv_rows
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import PartialRow, UnreadableRowError
from flex_judge.judges.validation.text_files import get_format_suffix

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt")
LocatedRows = Iterator[tuple[str, Mapping[str, Any]]]
"""Rows with their location (file and row) for error messages."""


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
    for where, row in read_csv_rows(path, columns) if is_csv else read_table(path, unwrap=True):
        if isinstance(row, UnreadableRowError):
            yield where, PartialRow(row)
        elif isinstance(row, UsageError):
            raise row
        else:
            yield where, row
