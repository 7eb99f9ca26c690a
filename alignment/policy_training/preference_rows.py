"""Reading of preference pairs from files, folders and data sets, with the types of their columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import load_split
from flex_judge.alignment.data.rows import ANSWER_COLUMNS
from flex_judge.alignment.data.sources import (
    SOURCE_FORMS,
    has_text_tables,
    is_dataset,
    open_dataset,
    open_source,
    split_location,
)
from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.columns import ColumnMapping, describe_missing_column
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import LocatedRow
from flex_judge.judges.validation.text_files import detect_form

PREFERENCE_FIELDS = ("prompt", *PROMPT_COLUMNS, *ANSWER_COLUMNS, "provenance")
"""Columns of preference data that are read."""


def read_preferences(text: str, columns: ColumnMapping) -> tuple[Any, list[str]]:
    """Read preference data as a `datasets.Dataset`, see `load_preference_data`.

    Returns:
        The rows, and the problem of each row of a table that cannot be read.

    Raises:
        UsageError: The data does not exist, has no rows, or lacks an answer column.
    """
    if is_dataset(text):
        rows, problems = _rename_columns(open_dataset(text).table, columns, text), list[str]()
    else:
        path, split = split_location(text)
        if not path.exists():
            raise UsageError(
                f"{text}: no such preference data; expected the folder of a `flex-judge preferences` run, or "
                f"{SOURCE_FORMS}"
            )
        rows, problems = None, []
        if path.is_dir() and split is None and not columns and not has_text_tables(path):
            rows = load_split(text, text)
        elif path.is_file() and not columns:
            rows = _load_file(path)
        if rows is None:
            source = open_source(text)
            table = source.read_range(0, len(source), columns.wrap_needs(PREFERENCE_FIELDS.__contains__))
            rows, problems = _build_table(columns.map_rows(table), text)
    missing = [name for name in ANSWER_COLUMNS if name not in rows.column_names]
    if missing:
        names = ", ".join(rows.column_names)
        raise UsageError(
            f"{text}: column {missing[0]!r} is missing, which DPO needs; the columns are {names}; map one with "
            f"--column {missing[0]}=NAME"
        )
    if not len(rows):
        raise UsageError(f"{text}: the data has no rows")
    return rows, problems


def _rename_columns(rows: Any, columns: ColumnMapping, name: str) -> Any:
    for field_name, (column, *others) in columns.columns:
        if others:
            raise UsageError(f"--column {field_name}={others[0]}: a data set has one column for each field")
        if column not in rows.column_names:
            raise UsageError(f"{name}: {describe_missing_column(column, rows.column_names)}")
        if field_name != column:
            rows = rows.remove_columns(field_name) if field_name in rows.column_names else rows
            rows = rows.rename_column(column, field_name)
    return rows


def _load_file(path: Path) -> Any | None:
    """Load a plain JSON lines or Parquet file all of whose rows can be read, with its types.

    Args:
        path: the file.

    Returns:
        The rows as a `datasets.Dataset`; None for another file, see `_build_table`.

    Raises:
        UsageError: the file cannot be read.
    """
    loader = {".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
    # Checked first, because `datasets` gives up at the first bad row, or only when that row is used.
    states = {isinstance(row, UsageError) for _, row in read_table(path)} if loader else set()
    if loader and states == {False} and (loader == "parquet" or detect_form(path).is_plain):
        # `datasets` reads fewer forms, for example no mark before every row.
        with suppress(UsageError):
            return load_split(str(path), loader, data_files=str(path))
    return None


def _build_table(rows: Iterable[LocatedRow], name: str) -> tuple[Any, list[str]]:
    """Build a data set of the rows that can be read, with the columns of `PREFERENCE_FIELDS`.

    Args:
        rows: the rows.
        name: name of the data, for messages.

    Returns:
        The rows as a `datasets.Dataset`, and the problem of each row that cannot be read.

    Raises:
        UsageError: no row can be read.
    """
    from datasets import Dataset

    readable: list[Mapping[str, Any]] = []
    problems = []
    for _, row in rows:
        if isinstance(row, UsageError):
            problems.append(to_one_line(row))
        else:
            readable.append(row)
    if not readable:
        raise UsageError(problems[0] if problems else f"{name}: has no rows")
    names = {column: None for row in readable for column in row if column in PREFERENCE_FIELDS}
    try:
        table = Dataset.from_list([{column: row.get(column) for column in names} for row in readable])
    except (ValueError, TypeError) as e:  # the errors of pyarrow for columns of several types
        raise UsageError(f"{name}: cannot be loaded: {to_one_line(e)[:300]}") from e
    return table, problems
