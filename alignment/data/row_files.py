"""Files of rows as sources: any range of rows can be read, in any process."""

from __future__ import annotations

import hashlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Self

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.csv_rows import CSV_SUFFIXES, read_csv_rows
from flex_judge.judges.io.files import TABLE_ENDINGS
from flex_judge.judges.io.json_rows import (
    LocatedRow,
    NeedsColumn,
    is_blank,
    iterate_row_lines,
    need_all,
    parse_row,
    read_json_file,
    read_json_lines,
)
from flex_judge.judges.io.parquet import read_parquet, read_parquet_info
from flex_judge.judges.media.paths import list_media_folders
from flex_judge.judges.validation.text_files import detect_form, get_format_suffix

INDEX_STRIDE = 64
"""Number of rows between two indexed offsets of a JSON lines file."""
MAX_CURSORS = 4
"""Maximum number of open readers of a file that cannot be read from any position."""


def open_row_file(
    path: Path, name: str | None = None, expected: str = f"a file that ends in {TABLE_ENDINGS}"
) -> RowFile:
    """Open a file of rows by its ending.

    Args:
        path: the file; see `flex_judge.judges.io.files.TABLE_ENDINGS`.
        name: name for messages; None for the file's name.
        expected: what the path may be, for the message about another ending.

    Raises:
        UsageError: the file does not exist, cannot be read, or has another ending.
    """
    suffix = get_format_suffix(path)
    kinds: dict[str, type[RowFile]] = {".jsonl": JsonLinesFile, ".json": JsonFile}
    kinds |= dict.fromkeys(CSV_SUFFIXES, CsvFile)
    if path.suffix.lower() == ".parquet":
        kind: type[RowFile] = ParquetFile
    elif suffix in kinds:
        kind = kinds[suffix]
    else:
        is_missing = not path.exists()
        raise UsageError(f"{path}: {'no such file or folder; ' if is_missing else ''}expected {expected}")
    # Absolute, because workers may have another working directory.
    return kind.open(path.absolute(), name or path.name)


@dataclass(frozen=True)
class RowFile(ABC):
    """File of rows."""

    path: Path
    """Absolute path of the file, as the user gave it: links are not followed."""
    name: str
    """Name for messages."""
    digest: str
    """SHA-256 hex digest of the content."""
    count: int
    """Number of rows."""

    @classmethod
    @abstractmethod
    def open(cls, path: Path, name: str) -> Self:
        """Read the file once to count rows.

        Raises:
            UsageError: the file cannot be read, or does not hold rows.
        """

    @abstractmethod
    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""

    @cached_property  # asked for with every row
    def folder(self) -> tuple[Path, ...]:
        """Folders that relative media paths refer to: that of the path, then that of the file it is a link to."""
        return list_media_folders(self.path)

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class JsonLinesFile(RowFile):
    """JSON lines file: one JSON object per line; empty lines are skipped."""

    offsets: tuple[tuple[int, int], ...] | None = field(repr=False)
    """Byte offset and line number (from 1) of every INDEX_STRIDE-th row, so that ranges can be read without a scan.

    None for files that are compressed or not UTF-8: these are read from the start.
    """

    @classmethod
    def open(cls, path: Path, name: str) -> Self:
        """Read the file once to count rows and index their offsets, see `RowFile.open`."""
        if not detect_form(path).is_plain:
            return cls(path, name, _compute_digest(path), sum(1 for _ in iterate_row_lines(path)), offsets=None)
        digest, count, offset = hashlib.sha256(), 0, 0
        offsets = []
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not is_blank(line):
                    if count % INDEX_STRIDE == 0:
                        offsets.append((offset, number))
                    count += 1
                digest.update(line)
                offset += len(line)
        return cls(path, name, digest.hexdigest(), count, offsets=tuple(offsets))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:  # noqa: ARG002
        """See `RowFile.read_range`."""
        stop = min(stop, self.count)
        if start >= stop:
            return
        if self.offsets is None:
            yield from _read_through(self, partial(read_json_lines, self.path, self.name, unit="line"), start, stop)
            return
        offset, first_line = self.offsets[start // INDEX_STRIDE]
        skipped = start % INDEX_STRIDE
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = ((number, line) for number, line in enumerate(file, first_line) if not is_blank(line))
            for number, line in itertools.islice(lines, skipped, skipped + stop - start):
                yield parse_row(line, f"{self.name}, line {number}")


@dataclass(frozen=True)
class CsvFile(RowFile):
    """Delimited table. It is read from the start, because only that tells which line ends belong to a cell."""

    @classmethod
    def open(cls, path: Path, name: str) -> Self:
        """See `RowFile.open`."""
        digest = _compute_digest(path)
        return cls(path, name, digest, sum(1 for _ in read_csv_rows(path, name=name)))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:  # noqa: ARG002
        """See `RowFile.read_range`. The cells are text, see `flex_judge.judges.io.columns.read_cells`."""
        stop = min(stop, self.count)
        if start < stop:
            yield from _read_through(self, partial(read_csv_rows, self.path, name=self.name), start, stop)


_cursors: dict[RowFile, list[tuple[int, Iterator[LocatedRow]]]] = {}
_cursor_lock = Lock()


def _read_through(
    file: RowFile, read_all: Callable[[], Iterator[LocatedRow]], start: int, stop: int
) -> Iterator[LocatedRow]:
    """Read rows of a file that is read from the start with `read_all`.

    Readers stay open after their range, so that a worker which reads range after range reads the file only once.
    """
    with _cursor_lock:
        cursors = _cursors.setdefault(file, [])
        cursor = max((c for c in cursors if c[0] <= start), default=None, key=lambda c: c[0])
        if cursor:
            cursors.remove(cursor)
    position, rows = cursor or (0, read_all())
    yield from itertools.islice(rows, start - position, stop - position)
    with _cursor_lock:
        cursors.append((stop, rows))
        del cursors[:-MAX_CURSORS]


@dataclass(frozen=True)
class JsonFile(RowFile):
    """JSON file with a list of objects, or with one object or one per line. It is read into memory."""

    @classmethod
    def open(cls, path: Path, name: str) -> Self:
        """See `RowFile.open`."""
        rows = _read_json_file_once(path, name, digest := _compute_digest(path))
        return cls(path, name, digest, len(rows))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:  # noqa: ARG002
        """See `RowFile.read_range`."""
        yield from _read_json_file_once(self.path, self.name, self.digest)[start:stop]


@dataclass(frozen=True)
class ParquetFile(RowFile):
    """Parquet file, read by row group."""

    @classmethod
    def open(cls, path: Path, name: str) -> Self:
        """See `RowFile.open`."""
        return cls(path, name, _compute_digest(path), read_parquet_info(path).count)

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """See `RowFile.read_range`."""
        return read_parquet(self.path, start, stop, name=self.name, needs=needs)


def _compute_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e


@lru_cache(maxsize=2)
def _read_json_file_once(path: Path, name: str, digest: str) -> list[LocatedRow]:  # noqa: ARG001 - part of the key
    """Read a JSON file once per process."""
    return list(read_json_file(path, name))
