"""The data of a benchmark, as its makers released it: files of several formats, a folder of them, or a data set of the
hub. What is not as expected is refused in one line that says what was expected."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import reprlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.sources import HUB, HubDataset
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table

DATA_SUFFIXES = (".json", ".jsonl", ".parquet", ".csv", ".tsv", ".txt")


MAX_PARENT_FOLDERS = 4
"""Folders above that of a table, at most, in which its media are looked for."""


@dataclass(frozen=True)
class Record:
    """A row of the data, with where it stands."""

    where: str
    """File and row, for messages."""
    data: Mapping[str, Any]
    number: int
    """Of the row in its file, from 1."""
    file: Path
    """Relative to the data's folder; of a data set of the hub its configuration, else its split."""
    folder: Path
    """Of the data."""

    def get(self, *names: str) -> Any:
        """The value of the first of the fields that is there and neither null nor NaN, which tables hold for an empty
        text; None where none is."""
        return next((self.data[name] for name in names if not _is_missing(self.data.get(name))), None)

    def get_text(self, *names: str) -> str:
        """As `get`, and a text.

        Raises:
            UsageError: none is there, or it is something else.
        """
        value = self.require_value(*names)
        if not isinstance(value, str):
            raise self.make_error(names[0], "a text", value)
        return value

    def get_text_or_empty(self, name: str) -> str:
        """As `text`, and an empty one where the field is there and holds nothing."""
        return self.get_text(name) if self.get(name) is not None or name not in self.data else ""

    def get_number(self, *names: str, within: tuple[float, float] = (-math.inf, math.inf)) -> float:
        """As `get`, and a number, perhaps written as text.

        Args:
            within: the lowest and the highest that it can be.

        Raises:
            UsageError: none is there, or it is something else.
        """
        value = self.require_value(*names)
        low, high = within
        try:
            number = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not (math.isfinite(number) and low <= number <= high):
            raise self.make_error(
                names[0], "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}", value
            )
        return number

    def get_choice(self, allowed: Mapping[Any, Any], *names: str) -> Any:
        """What the value of a field stands for.

        Raises:
            UsageError: it stands for nothing.
        """
        value = self.require_value(*names)
        value = value.strip() if isinstance(value, str) else value
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value not in allowed:
            raise self.make_error(names[0], f"one of {', '.join(dict.fromkeys(map(str, allowed)))}", value)
        return allowed[value]

    def require_value(self, *names: str) -> Any:
        """As `get`, and there. Raises UsageError."""
        value = self.get(*names)
        if value is None:
            raise UsageError(f"{self.where}: field {' or '.join(map(repr, names))} is missing")
        return value

    def locate_file(self, path: str, *folders: str) -> str:
        """Where a file is that the row names: beside the row's file or in a folder above it, or in one of `folders`
        there. Where it is nowhere, the first place, so that a message names one."""
        beside = (self.folder / self.file).resolve().parent
        places = [beside, *beside.parents[:MAX_PARENT_FOLDERS]]
        candidates = [place / folder / path for place in places for folder in ("", *folders)]
        return str(next((one for one in candidates if one.is_file()), candidates[0]))

    def make_error(self, name: str, expected: str, value: Any) -> UsageError:
        return UsageError(f"{self.where}, field {name!r}: expected {expected}, got {reprlib.repr(value)}")


@dataclass(frozen=True)
class BenchmarkData:
    """The rows of a benchmark, and which version of them."""

    name: str
    """As the command line names it; of several, all names."""
    files: tuple[str, ...]
    records: tuple[Record, ...]
    digest: str
    """Of the content of the files, or the commit of a data set of the hub."""


def open_data(
    names: Sequence[str], patterns: Sequence[str], expected: str, columns: Sequence[str] = ()
) -> BenchmarkData:
    """Read data.

    Args:
        names: files, folders, or `hub:OWNER/NAME[:CONFIG][@SPLIT]`.
        patterns: of the files to take from a folder; those of the first that any file matches. `|` stands between
            patterns of which all are taken.
        expected: what the release looks like, for messages.
        columns: of tables without a header line.

    Raises:
        UsageError: there is nothing of the kind.
    """
    parts = [_open_source(name, patterns, expected, columns) for name in names]
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256("".join(one.digest for one in parts).encode()).hexdigest()
    if not any(name.startswith(HUB) for name in names):  # files may be called alike, and are told by their folders
        parts = [replace(one, records=tuple(map(_use_absolute_paths, one.records))) for one in parts]
    records = tuple(record for one in parts for record in one.records)
    return BenchmarkData(", ".join(names), tuple(file for one in parts for file in one.files), records, digest)


def _use_absolute_paths(record: Record) -> Record:
    file = (record.folder / record.file).resolve()
    return replace(record, file=file.relative_to(file.anchor), folder=Path(file.anchor))


def _open_source(name: str, patterns: Sequence[str], expected: str, columns: Sequence[str]) -> BenchmarkData:
    if name.startswith(HUB):
        return _open_hub_dataset(name)
    path = Path(name)
    if path.is_dir():
        found = next((files for pattern in patterns if (files := _match_files(path, pattern))), [])
        if not found:
            raise UsageError(f"{path}: expected {expected}; found no file {' or '.join(patterns)}")
        folder = path
    elif path.is_file():
        if path.suffix not in DATA_SUFFIXES:
            raise UsageError(f"{path}: expected {expected}, in a file that ends in {', '.join(DATA_SUFFIXES)}")
        found, folder = [path], path.parent
    else:
        raise UsageError(f"{path}: there is no such file or folder; expected {expected}")
    digest = hashlib.sha256()
    records: list[Record] = []
    for file in found:
        relative = file.relative_to(folder)
        digest.update(f"{relative}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
        rows = enumerate(read_data_file(file, columns), 1)
        records += [Record(where, row, number, relative, folder) for number, (where, row) in rows]
    if not records:
        raise UsageError(f"{name}: holds no row; expected {expected}")
    names = tuple(str(file.relative_to(folder)) for file in found)
    return BenchmarkData(name, names, tuple(records), digest.hexdigest())


def assign_ids(records: Sequence[Record], names: Sequence[str]) -> list[str]:
    """An id for each row: its own, in the first of the fields (or of several, `subset/id`) where all have one and no
    two alike, else the number of the row. Where there are several files, and no field tells all rows apart, their names
    do: `pair/17`."""
    if own := _find_unique_ids(records, names):
        return own
    parts: dict[Path, list[Record]] = {}
    for record in records:
        parts.setdefault(record.file, []).append(record)
    ids = {file: _find_unique_ids(part, names) or [str(one.number) for one in part] for file, part in parts.items()}
    if len(parts) == 1:
        return next(iter(ids.values()))
    titles = _name_files(list(parts))
    taken = {file: iter(ids[file]) for file in parts}
    return [f"{titles[record.file]}/{next(taken[record.file])}" for record in records]


def _name_files(files: Sequence[Path]) -> dict[Path, str]:
    """The shortest names that tell files apart: their own, those of their folders, or their whole paths."""
    for titles in ({file: file.stem for file in files}, {file: file.parent.name for file in files}):
        if len(set(titles.values())) == len(files):
            return titles
    return {file: file.with_suffix("").as_posix() for file in files}


def _find_unique_ids(records: Sequence[Record], names: Sequence[str]) -> list[str] | None:
    for name in names:
        rows = [[record.data.get(part) for part in name.split("/")] for record in records]
        ids = ["/".join(map(str, row)) for row in rows if all(isinstance(one, str | int) and one != "" for one in row)]
        if len(ids) == len(records) == len(set(ids)):
            return ids
    return None


def check_fields(records: Sequence[Record], fields: Collection[str], expected: str) -> None:
    """Raise UsageError, saying what was expected, where the first row lacks a field."""
    first = records[0]
    missing = [name for name in fields if name not in first.data]
    if missing:
        held = ", ".join(map(str, list(first.data)[:12]))
        raise UsageError(f"{first.where}: expected {expected}; it has no {missing[0]!r}, but {held}")


def _match_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder that match a pattern, or one of several with `|` between."""
    found = {file for one in pattern.split("|") for file in folder.glob(one)}
    return sorted(file for file in found if file.is_file() and file.suffix in DATA_SUFFIXES)


def read_data_file(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a file that ends in one of ENDINGS, with where they stand. Raises UsageError."""
    readers: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[str, Mapping[str, Any]]]]] = {
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_csv,
    }
    return readers[path.suffix](path, columns) if path.suffix in readers else read_table(path)


def _read_json(path: Path, _: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    except ValueError as e:
        lines = "; if each line is an object, call it .jsonl" * (getattr(e, "msg", "") == "Extra data")
        raise UsageError(f"{path}: not JSON ({getattr(e, 'msg', e)}){lines}") from e
    lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else [value]
    rows = lists[0] if len(lists) == 1 else None
    if not isinstance(rows, list):
        raise UsageError(f"{path}: expected a list of rows")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise UsageError(f"{path}, row {number}: expected a JSON object, got {type(row).__name__}")
        yield f"{path}, row {number}", row


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            mark = "\t" if "\t" in first else "|" if "|" in first and "," not in first else ","
            reader = csv.reader(file, delimiter=mark)
            names = list(columns)
            # A release may come with a header or without: a header holds no number.
            if not names or not any(_is_number(cell) for cell in next(csv.reader([first], delimiter=mark), [])):
                header = next(reader, [])
                names = names or header
            for number, cells in enumerate(reader, 1):
                if cells:
                    yield f"{path}, row {number}", dict(zip(names, cells, strict=False))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise UsageError(f"{path}: not a table in UTF-8: {e}") from e


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _open_hub_dataset(name: str) -> BenchmarkData:
    source = HubDataset.open(name)
    records = []
    for number, (where, row) in enumerate(source.read_range(0, len(source)), 1):
        if isinstance(row, UsageError):
            raise row
        records.append(Record(where, row, number, Path(source.config or source.split), source.folder))
    return BenchmarkData(name, (name,), tuple(records), source.digest)
