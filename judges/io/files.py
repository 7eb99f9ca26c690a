"""Tables of comparisons and judgments, as JSON lines, JSON, CSV or Parquet depending on the file name's suffix."""

from __future__ import annotations

import itertools
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS, read_row_prompt
from flex_judge.judges.conversations.messages import View, read_view
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError
from flex_judge.judges.extras import import_optional
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping
from flex_judge.judges.io.csv_rows import CSV_SUFFIXES, read_csv_rows
from flex_judge.judges.io.json_rows import (
    LocatedRow,
    NeedsColumn,
    UnreadableRowError,
    is_row_id,
    need_all,
    read_json_file,
    read_json_lines,
)
from flex_judge.judges.io.jsonl import SURROGATES, replace_file, write_rows
from flex_judge.judges.io.parquet import PARQUET_FEATURE, read_parquet
from flex_judge.judges.media.paths import MediaFolders, list_media_folders, make_folder_opener, make_placeholder
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, Message, Response
from flex_judge.judges.validation.text_files import get_format_suffix

TABLE_ENDINGS = ".jsonl, .json, .csv, .tsv or .parquet (all but the last also with .gz or .zst)"
"""Endings of tables, for messages."""
FIELDS = ("id", "prompt", "responses", "rubric", "view", *PROMPT_COLUMNS)


@dataclass(frozen=True)
class ComparisonFileRow:
    """Validated row of a comparisons file. Its media are not loaded yet."""

    id: str
    """Id from the row, or else its row number, from 1."""
    where: str
    """File and row number for error messages."""
    data: Mapping[str, Any]
    """The row as read, without null fields."""
    rubric: str
    """Rubric of the row, or else of the run."""
    folder: MediaFolders
    """Folders that relative media paths refer to."""

    def load_comparison(self) -> Comparison:
        """Load the media and create the comparison.

        Raises:
            MediaError: a medium cannot be read; the message names file and row.
            UsageError: the prompt has more image parts than images.
        """
        reader = ConversationReader(make_folder_opener(self.folder))
        try:
            prompt, responses = _read_row(reader, self.data)
        except UsageError as e:
            raise e.locate(self.where) from e
        return Comparison(self.id, prompt, responses, self.rubric)


@dataclass(frozen=True)
class InvalidRow:
    """Row of a comparisons file that cannot be judged."""

    id: str
    """Id from the row if it can be read and no other row has it, or else its row number."""
    where: str
    """File and row number for error messages."""
    error: UsageError
    """Problem of the row; the message names file, row and field."""

    def load_comparison(self) -> Comparison:
        """Raise the error of the row."""
        raise self.error


def read_comparisons(
    path: Path, rubric: str = "general", view: View = "full", columns: ColumnMapping = NO_MAPPING
) -> list[ComparisonFileRow | InvalidRow]:
    """Read and validate all rows of a comparisons file, without loading media.

    Args:
        path: a table, see `read_table`. A row has `prompt` (text or messages), `responses` (a list of texts or
            messages) and optionally `id`, `rubric`, `view`, and PROMPT_COLUMNS (tools and media). Other columns are
            ignored. Relative media paths refer to the file's folder.
        rubric: rubric of rows that name none. Relative paths of rubric files refer to the working directory.
        view: what the judge sees of trajectories, in rows that name no view.
        columns: columns of the table that hold fields under other names.

    Returns:
        The rows in their order. All ids are different.

    Raises:
        UsageError: the file is invalid, or every row is; the message names file, row and field.
    """
    table = read_table(path, columns.wrap_needs(is_comparison_column))
    return parse_comparisons(table, str(path), list_media_folders(path), rubric=rubric, view=view, columns=columns)


def parse_comparisons(
    table: Iterable[LocatedRow],
    name: str,
    folders: MediaFolders,
    *,
    rubric: str = "general",
    view: View = "full",
    columns: ColumnMapping = NO_MAPPING,
) -> list[ComparisonFileRow | InvalidRow]:
    """Validate rows from anywhere, see `read_comparisons`; relative media paths refer to `folders`."""
    rows: list[ComparisonFileRow | InvalidRow] = []
    first_rows: dict[str, str] = {}
    mapped = dict(columns.columns)
    load_cached = cache(load_rubric)
    load_cached(rubric)  # An invalid run rubric must not be reported as an error of the first row.
    for number, (where, data) in enumerate(columns.map_rows(table), 1):
        try:
            if isinstance(data, UsageError):
                raise data
            values = {"view": view} | {name: value for name, value in data.items() if value is not None}
            _check_field_names(where, values, [column for column in data if column not in mapped])
            row = _parse_row(where, values, number, rubric=rubric, folder=folders, load_rubric=load_cached)
            if row.id in first_rows:
                first = first_rows[row.id]
                raise UsageError(f"{where}, field 'id': {row.id!r} is also the id of {first}; use unique ids")
        except UsageError as e:
            rows.append(InvalidRow(_find_id(data) or "", where, e))
        else:
            first_rows[row.id] = where
            rows.append(row)
    if not rows:
        raise UsageError(f"{name}: has no rows")
    if not first_rows and isinstance(rows[0], InvalidRow):
        raise rows[0].error
    # Valid rows keep their ids, so invalid rows get theirs afterwards.
    ids = set(first_rows)
    for number, invalid_row in enumerate(rows, 1):
        if isinstance(invalid_row, InvalidRow):
            numbered = (f"{number}{'+' * k}" for k in itertools.count())
            own_id = [invalid_row.id] if invalid_row.id else []
            row_id = next(c for c in itertools.chain(own_id, numbered) if c not in ids)
            ids.add(row_id)
            rows[number - 1] = replace(invalid_row, id=row_id)
    return rows


def is_comparison_column(name: str) -> bool:
    """Return whether a column of a comparisons file is read: a field, or a column that resembles one."""
    lower = name.lower()
    # See `_check_field_names` for `id`.
    return lower in FIELDS or bool(get_close_matches(lower, FIELDS[1:], cutoff=0.8))


def _find_id(data: Mapping[str, Any] | UsageError) -> str | None:
    """Return the id of a row that may be invalid, or None."""
    values = data.data if isinstance(data, UnreadableRowError) else {} if isinstance(data, UsageError) else data
    row_id = values.get("id")
    return str(row_id) if is_row_id(row_id) and _escape_surrogates(row_id) == row_id else None


def read_table(path: Path, needs: NeedsColumn = need_all, *, unwrap: bool = False) -> Iterator[LocatedRow]:
    """Read the rows of a table.

    Args:
        path: `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet`; all but the last also compressed, such as `.jsonl.gz` or
            `.jsonl.zst`. The cells of `.csv` and `.tsv` are text, see `flex_judge.judges.io.columns.read_cells`.
        needs: whether a column is read. The others are None in the rows of a Parquet file.
        unwrap: whether a `.json` file may also hold an object with exactly one list: the rows.

    Yields:
        File and row number for error messages, and the row or the error that describes why it cannot be read.

    Raises:
        UsageError: the file cannot be read or has another format.
    """
    suffix = get_format_suffix(path)
    if path.suffix.lower() == ".parquet":
        yield from read_parquet(path, needs=needs)
    elif suffix == ".jsonl":
        yield from read_json_lines(path)
    elif suffix == ".json":
        yield from read_json_file(path, unwrap=unwrap)
    elif suffix in CSV_SUFFIXES:
        yield from read_csv_rows(path)
    else:
        raise UsageError(f"{path}: expected a file that ends in {TABLE_ENDINGS}")


def require_rows(rows: Iterable[LocatedRow]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of a table; raise the error of the first one that cannot be read."""
    for where, row in rows:
        if isinstance(row, UsageError):
            raise row
        yield where, row


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically, in the format of its suffix: readers see the old file or the new one, never a part.

    Lone surrogates, which UTF-8 cannot encode, are written as backslash escapes. JSON lines files read them back
    unchanged; Parquet keeps the six characters of the escape.
    """
    if path.suffix != ".parquet":
        write_rows(path, rows)
        return
    pa, pq = import_optional("pyarrow", PARQUET_FEATURE), import_optional("pyarrow.parquet", PARQUET_FEATURE)
    table = pa.Table.from_pylist([_escape_surrogates(dict(row)) for row in rows])
    with replace_file(path) as partial:
        pq.write_table(table, partial)


def _escape_surrogates(value: Any) -> Any:
    """Escape lone surrogates in all strings of a value, so that UTF-8 can encode them."""
    if isinstance(value, str):
        return value.encode(errors=SURROGATES).decode()
    if isinstance(value, Mapping):
        return {_escape_surrogates(name): _escape_surrogates(v) for name, v in value.items()}
    return [_escape_surrogates(v) for v in value] if isinstance(value, list | tuple) else value


def _parse_row(
    where: str,
    data: Mapping[str, Any],
    number: int,
    rubric: str,
    folder: MediaFolders,
    load_rubric: Callable[[str], Rubric],
) -> ComparisonFileRow:
    def make_field_error(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {reprlib.repr(data[name])}")

    if not isinstance(data["responses"], list) or not data["responses"]:
        raise make_field_error("responses", "a list of one or more texts or messages")
    if not isinstance(data.get("rubric", rubric), str):
        raise make_field_error("rubric", "the name of a rubric")
    if not is_row_id(data.get("id", number)):
        raise make_field_error("id", "a text or a whole number")
    if _escape_surrogates(data.get("id")) != data.get("id"):  # An escaped id would not match when a run resumes.
        raise make_field_error("id", "a text without lone surrogates")
    row = ComparisonFileRow(
        id=str(data.get("id", number)), where=where, data=data, rubric=data.get("rubric", rubric), folder=folder
    )
    try:
        load_rubric(row.rubric).check_response_count(len(data["responses"]))
    except UsageError as e:
        raise UsageError(f"{where}, field 'rubric': {e}") from e
    try:
        _read_row(ConversationReader(make_placeholder), data)
    except UsageError as e:
        raise e.locate(where) from e
    return row


def _read_row(reader: ConversationReader, data: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[Response, ...]]:
    """Read the prompt and the responses of a row."""
    view = read_view(data.get("view", "full"), "view")
    prompt = read_row_prompt(reader, data)
    responses = [reader.read_response(r, view, f"responses[{i}]") for i, r in enumerate(data["responses"])]
    return prompt, tuple(responses)


def _check_field_names(where: str, data: Mapping[str, Any], columns: Sequence[str]) -> None:
    """Reject misspelled and missing field names.

    Data sets may have other columns, but a typo must not silently drop the images or the rubric.

    Args:
        where: file and row, for messages.
        data: the values of the row that are not null.
        columns: names of all columns, for messages.
    """
    missing = [name for name in FIELDS if name not in data]
    for name in data:
        # `id` is so short that `uid` or `idx` would count as typos of it; only another letter case does.
        matches = [field for field in missing if field == name.lower()]
        if not matches:
            candidates = [field for field in missing if field != "id"]
            matches = get_close_matches(name.lower(), candidates, n=1, cutoff=0.8)
        if name not in FIELDS and matches:
            raise UsageError(f"{where}: unknown field {name!r}; did you mean {matches[0]!r}?")
    for name in ("prompt", "responses"):
        if name not in data:
            names = ", ".join(column for column in columns if column) or "none"
            raise UsageError(f"{where}: field {name!r} is missing; the columns are {names}; map one with --column")
