"""Files of comparisons and judgments: JSON lines or Parquet, by their ending."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.extras import import_optional
from flex_judge.judges.io.jsonl import SURROGATES, read_rows, write_rows
from flex_judge.judges.media.paths import resolve_media_paths, resolve_source_path, strip_media
from flex_judge.judges.media.types import Modality
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison, parse_messages, parse_response

PARQUET_FEATURE = "a Parquet file"
"""What needs pyarrow, for error messages."""
FIELDS = ("id", "prompt", "responses", "rubric", "images")
UNSUPPORTED_MEDIA_FIELDS = tuple(f"{m}{s}" for m in Modality if m != Modality.IMAGE for s in ("", "s"))
"""Columns that would be dropped in silence: of media, only images may stand beside the prompt."""


@dataclass(frozen=True)
class ComparisonFileRow:
    """A row of a file of comparisons, checked but with its media not yet read."""

    id: str
    """The row's own id, or its number in the file, from 1."""
    where: str
    """File and row, for messages."""
    data: Mapping[str, Any]
    """The row as it is in the file, without fields that are null."""
    rubric: str
    """The row's own rubric, or that of the run."""
    folder: Path
    """Where paths of media start from."""

    def load_comparison(self) -> Comparison:
        """The comparison, media read.

        Raises:
            MediaError: a medium that cannot be read; the message begins with `where`, as all here do.
            UsageError: another number of images than there are places for.
        """
        try:
            images = [resolve_source_path(self.folder, image) for image in self.data.get("images") or ()]
            prompt, responses = (resolve_media_paths(self.folder, self.data[name]) for name in ("prompt", "responses"))
            return Comparison.of(prompt, *responses, images=images, rubric=self.rubric, id=self.id)
        except UsageError as e:  # a MediaError is one, and stays one
            raise type(e)(f"{self.where}: {e}") from e


def read_comparisons(path: Path, rubric: str = "general") -> list[ComparisonFileRow]:
    """The rows of a file, all checked before any is judged.

    Args:
        path: `.jsonl` or `.parquet`; a row has `prompt` (text or messages), `responses` (a list of texts or messages)
            and perhaps `id`, `rubric` and `images`. Columns of other names are left alone. Relative paths of media
            start from the file's folder.
        rubric: for rows that name none. Relative paths of rubrics start from the working directory.

    Raises:
        UsageError: the file or a row is not as it should be; the message names file, row and field.
    """
    rows: list[ComparisonFileRow] = []
    places: dict[str, str] = {}
    rubrics = cache(load_rubric)
    rubrics(rubric)  # what is wrong with it is not the first row's fault
    for number, (where, data) in enumerate(read_table(path), 1):
        row = _parse_row(where, {k: v for k, v in data.items() if v is not None}, number, rubric, path.parent, rubrics)
        if row.id in places:
            raise UsageError(f"{where}, field 'id': {row.id!r} is also the id of {places[row.id]}")
        places[row.id] = where
        rows.append(row)
    if not rows:
        raise UsageError(f"{path}: holds no row")
    return rows


def read_table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table with where they stand.

    Raises:
        UsageError: the file cannot be read or is of another format.
    """
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
    elif path.suffix == ".jsonl":
        for number, row in enumerate(read_rows(path), 1):
            yield f"{path}, row {number}", row
    else:
        raise UsageError(f"{path}: expected a file that ends in .jsonl or .parquet")


def write_table(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole table at once, in the format of its ending: a reader sees the old file or the new one, never a
    part.

    Half a surrogate pair, which no UTF-8 can hold, is written in its backslash form. JSON reads that as the half it
    was; Parquet keeps the six characters, e.g. `\\ud83d`.
    """
    if path.suffix != ".parquet":
        write_rows(path, rows)
        return
    pa, pq = import_optional("pyarrow", PARQUET_FEATURE), import_optional("pyarrow.parquet", PARQUET_FEATURE)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(pa.Table.from_pylist([_escape_surrogates(dict(row)) for row in rows]), partial)
    partial.replace(path)


def _escape_surrogates(value: Any) -> Any:
    """The value with texts that UTF-8 can hold."""
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
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror or e}") from e
    except pa.ArrowInvalid as e:
        raise UsageError(f"{path}: not a Parquet file: {e}") from e


def _parse_row(
    where: str, data: Mapping[str, Any], number: int, rubric: str, folder: Path, rubrics: Callable[[str], Rubric]
) -> ComparisonFileRow:
    def make_field_error(name: str, expected: str) -> UsageError:
        return UsageError(f"{where}, field {name!r}: expected {expected}, got {reprlib.repr(data[name])}")

    _check_field_names(where, data)
    if not isinstance(data["responses"], list) or not data["responses"]:
        raise make_field_error("responses", "a list of one or more texts or messages")
    if not isinstance(data.get("images", []), list):
        raise make_field_error("images", "a list of paths or data URIs")
    if not isinstance(data.get("rubric", rubric), str):
        raise make_field_error("rubric", "the name of a rubric")
    if not isinstance(data.get("id", ""), str | int) or isinstance(data.get("id"), bool) or data.get("id") == "":
        raise make_field_error("id", "a text or a whole number")
    if _escape_surrogates(data.get("id")) != data.get("id"):  # written in another form, it would not be found again
        raise make_field_error("id", "a text without half of a surrogate pair")
    row = ComparisonFileRow(str(data.get("id", number)), where, data, data.get("rubric", rubric), folder)
    checks: dict[str, Callable[[], object]] = {
        "rubric": lambda: rubrics(row.rubric).check_response_count(len(data["responses"])),
        "prompt": lambda: parse_messages(strip_media(data["prompt"])),
        "responses": lambda: [parse_response(r) for r in strip_media(data["responses"])],
    }
    for name, check in checks.items():
        try:
            check()
        except UsageError as e:
            what = str(e).removeprefix("prompt: ").removeprefix("response: ")
            raise UsageError(f"{where}, field {name!r}: {what}") from e
    return row


def _check_field_names(where: str, data: Mapping[str, Any]) -> None:
    """A data set may have columns of its own, but a slip must not drop the images, or the rubric, in silence."""
    absent = [name for name in FIELDS if name not in data]
    for name in data:
        # Of names as short as `id` nearly any is near: uid, idx. Only its spelling in capitals is taken for a slip.
        near = [n for n in absent if n == name.lower()]
        near = near or get_close_matches(name.lower(), [n for n in absent if n != "id"], n=1, cutoff=0.8)
        if name not in FIELDS and near:
            raise UsageError(f"{where}: unknown field {name!r}; did you mean {near[0]!r}?")
        if name.lower() in UNSUPPORTED_MEDIA_FIELDS:
            kind = name.lower().removesuffix("s")
            raise UsageError(
                f"{where}: unknown field {name!r}; make it part of the prompt: "
                f"{{'type': 'text', 'text': ...}} and {{'type': '{kind}', '{kind}': ...}} as the content of a message"
            )
    for name in ("prompt", "responses"):
        if name not in data:
            raise UsageError(f"{where}: field {name!r} is missing")
