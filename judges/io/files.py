"""Tables of comparisons and judgments, as JSON lines or Parquet depending on the file name's suffix."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from flex_judge.judges.conversations.columns import PROMPT_COLUMNS, read_row_prompt
from flex_judge.judges.conversations.messages import VIEWS, View
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import UsageError
from flex_judge.judges.extras import import_optional
from flex_judge.judges.io.jsonl import SURROGATES, read_rows, write_rows
from flex_judge.judges.media.paths import make_folder_opener, make_placeholder
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, Message, Response

PARQUET_FEATURE = "a Parquet file"
"""Feature that needs pyarrow, for error messages."""
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
    folder: Path
    """Folder that relative media paths refer to."""

    def load_comparison(self) -> Comparison:
        """Load the media and create the comparison.

        Raises:
            MediaError: a medium cannot be read; the message names file and row.
            UsageError: the prompt has more image parts than images.
        """
        reader = ConversationReader(make_folder_opener(self.folder))
        try:
            prompt, responses = _read_row(reader, self.data)
        except UsageError as e:  # type(e) keeps a MediaError a MediaError
            raise type(e)(f"{self.where}, field {e.field!r}: {e.problem}") from e
        return Comparison(self.id, prompt, responses, self.rubric)


def read_comparisons(path: Path, rubric: str = "general", view: View = "full") -> list[ComparisonFileRow]:
    """Read and validate all rows of a comparisons file, without loading media.

    Args:
        path: `.jsonl` or `.parquet`. A row has `prompt` (text or messages), `responses` (a list of texts or messages)
            and optionally `id`, `rubric`, `view`, `tools`, `images`, `videos` and `audios`. Other columns are ignored.
            Relative media paths refer to the file's folder.
        rubric: rubric of rows that name none. Relative paths of rubric files refer to the working directory.
        view: what the judge sees of trajectories, in rows that name no view.

    Raises:
        UsageError: the file or a row is invalid; the message names file, row and field.
    """
    rows: list[ComparisonFileRow] = []
    first_rows: dict[str, str] = {}
    load_cached = cache(load_rubric)
    load_cached(rubric)  # An invalid run rubric must not be reported as an error of the first row.
    for number, (where, data) in enumerate(read_table(path), 1):
        values = {"view": view} | {name: value for name, value in data.items() if value is not None}
        row = _parse_row(where, values, number, rubric=rubric, folder=path.parent, load_rubric=load_cached)
        if row.id in first_rows:
            raise UsageError(f"{where}, field 'id': {row.id!r} is also the id of {first_rows[row.id]}; use unique ids")
        first_rows[row.id] = where
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: has no rows")
    return rows


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Read the rows of a table.

    Yields:
        File and row number for error messages, and the row.

    Raises:
        UsageError: the file cannot be read or has another format.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        for number, row in enumerate(read_rows(path), 1):
            yield f"{path}, row {number}", row
    else:
        raise UsageError(f"{path}: expected a file that ends in .jsonl or .parquet")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table atomically, in the format of its suffix: readers see the old file or the new one, never a part.

    Lone surrogates, which UTF-8 cannot encode, are written as backslash escapes. JSON lines files read them back
    unchanged; Parquet keeps the six characters of the escape.
    """
    if path.suffix != ".parquet":
        write_rows(path, rows)
        return
    pa, pq = import_optional("pyarrow", PARQUET_FEATURE), import_optional("pyarrow.parquet", PARQUET_FEATURE)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist([_escape_surrogates(dict(row)) for row in rows]), partial)
    partial.replace(path)


def _escape_surrogates(value: Any) -> Any:
    """Escape lone surrogates in all strings of a value, so that UTF-8 can encode them."""
    if isinstance(value, str):
        return value.encode(errors=SURROGATES).decode()
    if isinstance(value, Mapping):
        return {_escape_surrogates(name): _escape_surrogates(v) for name, v in value.items()}
    return [_escape_surrogates(v) for v in value] if isinstance(value, list | tuple) else value


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    pa, pq = import_optional("pyarrow", PARQUET_FEATURE), import_optional("pyarrow.parquet", PARQUET_FEATURE)
    try:
        with path.open("rb") as file:
            number = 0
            for batch in pq.ParquetFile(file).iter_batches(1024):
                for row in batch.to_pylist():  # by batch, so that large files do not have to fit into memory
                    number += 1
                    yield f"{path}, row {number}", row
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror or e}") from e
    except pa.ArrowInvalid as e:  # the error of pyarrow for files of another format and for damaged files
        raise UsageError(f"{path}: not a Parquet file: {e}") from e


def _parse_row(
    where: str, data: Mapping[str, Any], number: int, rubric: str, folder: Path, load_rubric: Callable[[str], Rubric]
) -> ComparisonFileRow:
    def make_field_error(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {reprlib.repr(data[name])}")

    _check_field_names(where, data)
    if not isinstance(data["responses"], list) or not data["responses"]:
        raise make_field_error("responses", "a list of one or more texts or messages")
    if not isinstance(data.get("rubric", rubric), str):
        raise make_field_error("rubric", "the name of a rubric")
    if not isinstance(data.get("id", ""), str | int) or isinstance(data.get("id"), bool) or data.get("id") == "":
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
        raise UsageError(f"{where}, field {e.field!r}: {e.problem}") from e
    return row


def _read_row(reader: ConversationReader, data: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[Response, ...]]:
    """Read the prompt and the responses of a row."""
    view = data.get("view", "full")
    if view not in VIEWS:
        raise UsageError.at_field("view", f"expected one of {', '.join(VIEWS)}, got {view!r:.80}")
    prompt = read_row_prompt(reader, data)
    responses = [reader.read_response(r, view, f"responses[{i}]") for i, r in enumerate(data["responses"])]
    return prompt, tuple(responses)


def _check_field_names(where: str, data: Mapping[str, Any]) -> None:
    """Reject misspelled field names, and media columns that are not supported.

    Data sets may have other columns, but a typo must not silently drop the images or the rubric.
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
            raise UsageError(f"{where}: field {name!r} is missing")
