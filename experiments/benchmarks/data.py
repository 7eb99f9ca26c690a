"""Data of a benchmark as released: files, folders, or data sets of the Hugging Face hub, with checked access to fields.

Invalid data is rejected with a one-line message that states what was expected.
"""

from __future__ import annotations

import hashlib
import math
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.hub import HUB, HubDataset
from flex_judge.alignment.data.sources import is_dataset, open_dataset, split_location
from flex_judge.experiments.benchmarks.cells import is_missing, parse_list, read_answer, read_number
from flex_judge.experiments.benchmarks.data_files import DATA_SUFFIXES, read_data_file
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import NO_MAPPING, ColumnMapping
from flex_judge.judges.io.files import require_rows
from flex_judge.judges.media.paths import list_media_folders
from flex_judge.judges.validation.text_files import COMPRESSION_SUFFIXES, get_format_suffix

MAX_PARENT_FOLDERS = 4
"""Maximum number of folders above a table that are searched for its media."""


class MissingDataError(UsageError):
    """Data that are not where a command looks for them, as opposed to data that are invalid."""


@dataclass(frozen=True)
class Record:
    """Row of the data with its location."""

    where: str
    """File and row, for error messages."""
    data: Mapping[str, Any]
    number: int
    """Number of the row in its file, from 1."""
    file: Path
    """Path of the file relative to `folder`; for a hub data set its configuration, else its split."""
    folder: Path
    """Folder of the data."""

    def get(self, *names: str) -> Any:
        """Return the value of the first field that has one, or None.

        A field with null or NaN has no value: tables store an empty text as NaN.
        """
        return next((self.data[name] for name in names if not is_missing(self.data.get(name))), None)

    def get_text(self, *names: str) -> str:
        """Return the text in the first field that has a value.

        Raises:
            UsageError: No field has a value, or it is not text.
        """
        value = self.require_value(*names)
        if not isinstance(value, str):
            raise self.make_error(names[0], "a text", value)
        return value

    def get_response(self, *names: str) -> str:
        """Return the answer in the first field that has a value, see `read_answer`; it must have one.

        Raises:
            UsageError: No field has a value, or it is not an answer.
        """
        return self._read_answer(names[0], self.require_value(*names))

    def get_answer(self, name: str) -> str:
        """Return an answer, see `read_answer`; one without a value is empty.

        Raises:
            UsageError: The field does not exist, or its value is not an answer.
        """
        value = self.data[name] if name in self.data else self.require_value(name)
        return self._read_answer(name, value)

    def get_answers(self, name: str, *names: str) -> list[str]:
        """Return the answers in a list, see `read_answer`, from the first field that has a value.

        Raises:
            UsageError: The field is missing, or its value is not a list of answers.
        """
        value = self.require_value(name, *names)
        answers = parse_list(value)
        if answers is None:
            raise self.make_error(name, "a list of texts", value)
        return [self._read_answer(name, answer) for answer in answers]

    def _read_answer(self, name: str, value: Any) -> str:
        answer = read_answer(value)
        if answer is None:
            raise self.make_error(name, "a text", value)
        return answer

    def get_number(self, *names: str, within: tuple[float, float] = (-math.inf, math.inf)) -> float:
        """Return the number, possibly written as text, in the first field that has a value.

        Args:
            *names: Names of the fields.
            within: Lowest and highest allowed value.

        Raises:
            UsageError: No field has a value, or it is not such a number.
        """
        value = self.require_value(*names)
        low, high = within
        number = read_number(value)
        if not low <= number <= high:  # also for nan
            expected = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
            raise self.make_error(names[0], expected, value)
        return number

    def get_choice(self, choices: Mapping[Any, Any], *names: str, ignore_case: bool = False) -> Any:
        """Map the value of the first field that has one by a table of choices.

        Args:
            choices: Value -> result.
            *names: Names of the fields.
            ignore_case: Whether to compare texts in upper case.

        Raises:
            UsageError: No field has a value, or it is not in the table.
        """
        value = self.require_value(*names)
        if isinstance(value, str):
            value = value.strip().upper() if ignore_case else value.strip()
        # True == 1 in Python, but not in the data.
        if isinstance(value, bool) or not isinstance(value, str | int | float) or value not in choices:
            raise self.make_error(names[0], f"one of {', '.join(dict.fromkeys(map(str, choices)))}", value)
        return choices[value]

    def require_value(self, *names: str) -> Any:
        """Return the value of the first field that has one, or raise UsageError."""
        value = self.get(*names)
        if value is None:
            raise UsageError(f"{self.where}: field {' or '.join(map(repr, names))} is missing")
        return value

    def locate_file(self, path: str, *folders: str) -> str:
        """Find a file that the row names.

        Searches the folder of the row's file and the folders above it, and `folders` in each of these. If the file
        does not exist, the first candidate is returned, so that an error message names a path.
        """
        roots: list[Path] = []
        for start in list_media_folders((self.folder / self.file).absolute()):
            roots += [start, *start.parents[:MAX_PARENT_FOLDERS]]
        candidates = [root / folder / path for root in roots for folder in ("", *folders)]
        return str(next((candidate for candidate in candidates if candidate.is_file()), candidates[0]))

    def make_error(self, name: str, expected: str, value: Any) -> UsageError:
        """Make the error for a field with an unexpected value."""
        return UsageError(f"{self.where}, field {name!r}: expected {expected}, got {reprlib.repr(value)}")


@dataclass(frozen=True)
class BenchmarkData:
    """Rows of a benchmark with their version."""

    name: str
    """Name on the command line; several names are joined."""
    files: tuple[str, ...]
    records: tuple[Record, ...]
    digest: str
    """Digest of the files' content, or the commit of a hub data set."""


def open_data(
    names: Sequence[str],
    patterns: Sequence[str],
    expected: str,
    columns: Sequence[str] = (),
    mapping: ColumnMapping = NO_MAPPING,
) -> BenchmarkData:
    """Read the data of a benchmark.

    Args:
        names: Files, folders, or `hub:OWNER/NAME[:CONFIG][@SPLIT]`.
        patterns: Glob patterns of the files in a folder; only the first one that matches is used. `|` joins patterns
            that are used together.
        expected: Files and fields of the release, for error messages.
        columns: Column names for tables without a header.
        mapping: Columns of the data that hold fields under other names.

    Raises:
        MissingDataError: There is no such data.
        UsageError: The data cannot be read, or no row has a mapped column.
    """
    parts = [_open_source(name, patterns, expected, columns) for name in names]
    if mapping:
        parts = [replace(part, records=_map_records(part.records, mapping)) for part in parts]
    if len(parts) == 1:
        return parts[0]
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    # Files from several folders may have the same name; absolute paths tell them apart.
    if not any(name.startswith(HUB) for name in names):
        parts = [replace(part, records=tuple(map(_use_absolute_paths, part.records))) for part in parts]
    records = tuple(record for part in parts for record in part.records)
    return BenchmarkData(", ".join(names), tuple(file for part in parts for file in part.files), records, digest)


def _map_records(records: Sequence[Record], mapping: ColumnMapping) -> tuple[Record, ...]:
    mapped = mapping.map_rows((record.where, record.data) for record in records)
    rows = require_rows(mapped)
    return tuple(replace(record, data=row) for record, (_, row) in zip(records, rows, strict=True))


def _use_absolute_paths(record: Record) -> Record:
    file = (record.folder / record.file).absolute()
    return replace(record, file=file.relative_to(file.anchor), folder=Path(file.anchor))


def _open_source(name: str, patterns: Sequence[str], expected: str, columns: Sequence[str]) -> BenchmarkData:
    if is_dataset(name):
        return _open_dataset(name)
    path = Path(name)
    if path.is_dir():
        files = next((matches for pattern in patterns if (matches := _match_files(path, pattern))), [])
        if not files:
            raise MissingDataError(f"{path}: expected {expected}; found no file {' or '.join(patterns)}")
        folder = path
    elif path.is_file():
        if get_format_suffix(path) not in DATA_SUFFIXES:
            raise UsageError(f"{path}: expected {expected}, in a file that ends in {', '.join(DATA_SUFFIXES)}")
        files, folder = [path], path.parent
    else:
        raise MissingDataError(f"{path}: no such file or folder; expected {expected}")
    digest = hashlib.sha256()
    records: list[Record] = []
    for file in files:
        relative = file.relative_to(folder)
        # The name is part of the digest, because some benchmarks read the task from it.
        digest.update(f"{relative}\0".encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
        for number, (where, row) in enumerate(read_data_file(file, columns), 1):
            records.append(Record(where, row, number, relative, folder))
    if not records:
        raise UsageError(f"{name}: has no row; expected {expected}")
    file_names = tuple(str(file.relative_to(folder)) for file in files)
    return BenchmarkData(name, file_names, tuple(records), digest.hexdigest())


def _open_dataset(name: str) -> BenchmarkData:
    try:
        source = open_dataset(name)
    except UsageError as e:
        if split_location(name.removeprefix(HUB))[0].exists():
            raise
        raise MissingDataError(str(e)) from e
    part = (source.config or source.split) if isinstance(source, HubDataset) else Path(source.path).name
    records = []
    for number, (where, row) in enumerate(source.read_range(0, len(source)), 1):
        if isinstance(row, UsageError):
            raise row
        records.append(Record(where, row, number, Path(part), source.folder))
    return BenchmarkData(name, (name,), tuple(records), source.digest)


def _match_files(folder: Path, pattern: str) -> list[Path]:
    """List the files of a folder that match a glob pattern, or one of several joined by `|`."""
    matches = set()
    for part in pattern.split("|"):
        name = part.rpartition("/")[2]
        # One search for the files and their compressed forms, because a release may have very many files of media.
        found = folder.glob(part.removesuffix("*") + "*")
        matches |= {file for file in found if get_format_suffix(file) in DATA_SUFFIXES and _has_name(file, name)}
    # A file next to its compressed copy counts once.
    copies = {file.with_name(file.name + ending) for file in matches for ending in COMPRESSION_SUFFIXES}
    # Hidden files hold no rows: macOS, for example, puts `._NAME` next to a file.
    return sorted(file for file in matches - copies if file.is_file() and not file.name.startswith("."))


def _has_name(file: Path, pattern: str) -> bool:
    """Check whether the name of a file matches a pattern, with or without the ending of its compression."""
    names = {file.name, *(file.name.removesuffix(ending) for ending in COMPRESSION_SUFFIXES)}
    return any(fnmatchcase(name, pattern) for name in names)


def check_fields(records: Sequence[Record], fields: Collection[str], expected: str) -> None:
    """Raise UsageError if the first row lacks a field; the message states what was expected."""
    first = records[0]
    missing = [name for name in fields if name not in first.data]
    if missing:
        existing = ", ".join(map(str, list(first.data)[:12]))
        raise UsageError(f"{first.where}: expected {expected}; it has no field {missing[0]!r}, only {existing}")
