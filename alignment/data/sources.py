"""Sources of prompts: files and data sets of any size that can be read by row range."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Protocol

from flex_judge.alignment.data.hub import HUB, HubDataset
from flex_judge.judges.errors import UsageError
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
from flex_judge.judges.media.paths import MediaFolders, list_media_folders
from flex_judge.judges.validation.text_files import detect_form, get_format_suffix

INDEX_STRIDE = 64
"""Number of rows between two indexed offsets of a JSON lines file."""


class Source(Protocol):
    """Rows that can be counted and read from any position.

    Sources are small and picklable, so that workers can open them again in other processes.
    """

    @property
    def name(self) -> str:
        """Name for messages."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the content."""
        ...

    @property
    def folder(self) -> MediaFolders:
        """Folder that relative media paths refer to, or several that are searched in order."""
        ...

    def __len__(self) -> int: ...

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` (from 0) to `stop` (exclusive), each with its location for messages."""
        ...


def open_source(text: str) -> Source:
    """Open a source of prompts.

    Args:
        text: a `.jsonl`, `.json` or `.parquet` file, the first two also compressed, or
            `hub:OWNER/NAME[:CONFIG][@SPLIT]` for a data set on the hub or a local folder that `datasets.load_dataset`
            can load. The default split is `train`.

    Raises:
        UsageError: the source does not exist, cannot be read or has no rows.
    """
    source: Source
    path = Path(text)
    if text.startswith(HUB):
        source = HubDataset.open(text)
    elif path.suffix.lower() == ".parquet":
        source = ParquetFile.open(path)
    elif get_format_suffix(path) == ".jsonl":
        source = JsonLinesFile.open(path)
    elif get_format_suffix(path) == ".json":
        source = JsonFile.open(path)
    else:
        raise UsageError(f"{text}: expected a file that ends in {TABLE_ENDINGS}, or hub:OWNER/NAME")
    if not len(source):
        raise UsageError(f"{source.name}: has no rows")
    return source


@dataclass(frozen=True)
class _RowFile:
    """Common fields of file sources."""

    path: Path
    """Absolute path of the file, as the user gave it: links are not followed."""
    digest: str
    """SHA-256 hex digest of the content."""
    count: int
    """Number of rows."""

    @property
    def name(self) -> str:
        """File name for messages."""
        return self.path.name

    @property
    def folder(self) -> MediaFolders:
        """Folders that relative media paths refer to: that of the path, then that of the file it is a link to."""
        return list_media_folders(self.path)

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class JsonLinesFile(_RowFile):
    """JSON lines file: one JSON object per line; empty lines are skipped."""

    offsets: tuple[tuple[int, int], ...] | None = field(repr=False)
    """Byte offset and line number (from 1) of every INDEX_STRIDE-th row, so that ranges can be read without a scan.

    None for files that are compressed or not UTF-8: these are read from the start.
    """

    @classmethod
    def open(cls, path: Path) -> JsonLinesFile:
        """Read the file once to count rows and index their offsets.

        Raises:
            UsageError: the file cannot be read.
        """
        path = path.absolute()  # workers may have another working directory
        if not detect_form(path).is_plain:
            return cls(path, _compute_digest(path), sum(1 for _ in iterate_row_lines(path)), offsets=None)
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
        return cls(path, digest.hexdigest(), count, offsets=tuple(offsets))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:  # noqa: ARG002
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        stop = min(stop, self.count)
        if start >= stop:
            return
        if self.offsets is None:
            yield from _read_through(self, start, stop)
            return
        offset, first_line = self.offsets[start // INDEX_STRIDE]
        skipped = start % INDEX_STRIDE
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = ((number, line) for number, line in enumerate(file, first_line) if not is_blank(line))
            for number, line in itertools.islice(lines, skipped, skipped + stop - start):
                yield parse_row(line, f"{self.name}, line {number}")


_cursors: dict[JsonLinesFile, list[tuple[int, Iterator[LocatedRow]]]] = {}
_cursor_lock = Lock()
MAX_CURSORS = 4
"""Maximum number of open readers of a file that cannot be read from any position."""


def _read_through(file: JsonLinesFile, start: int, stop: int) -> Iterator[LocatedRow]:
    """Read rows of a file that is read from the start.

    Readers stay open after their range, so that a worker which reads range after range reads the file only once.
    """
    with _cursor_lock:
        cursors = _cursors.setdefault(file, [])
        cursor = max((c for c in cursors if c[0] <= start), default=None, key=lambda c: c[0])
        if cursor:
            cursors.remove(cursor)
    position, rows = cursor or (0, read_json_lines(file.path, file.name, unit="line"))
    yield from itertools.islice(rows, start - position, stop - position)
    with _cursor_lock:
        cursors.append((stop, rows))
        del cursors[:-MAX_CURSORS]


@dataclass(frozen=True)
class JsonFile(_RowFile):
    """JSON file with a list of objects, or with one object or one per line. It is read into memory."""

    @classmethod
    def open(cls, path: Path) -> JsonFile:
        """Read the file once to count rows.

        Raises:
            UsageError: the file cannot be read, or does not hold rows.
        """
        path = path.absolute()
        rows = _read_json_file_once(path, digest := _compute_digest(path))
        return cls(path, digest, len(rows))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:  # noqa: ARG002
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        yield from _read_json_file_once(self.path, self.digest)[start:stop]


@dataclass(frozen=True)
class ParquetFile(_RowFile):
    """Parquet file, read by row group."""

    @classmethod
    def open(cls, path: Path) -> ParquetFile:
        """Read the number of rows and hash the file.

        Raises:
            UsageError: the file cannot be read or is not a Parquet file.
        """
        path = path.absolute()
        return cls(path, _compute_digest(path), read_parquet_info(path).count)

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        return read_parquet(self.path, start, stop, name=self.name, needs=needs)


@dataclass(frozen=True)
class FirstRows:
    """The first rows of another source."""

    source: Source
    """The other source."""
    max_rows: int
    """Maximum number of rows."""

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.source.name

    @property
    def digest(self) -> str:
        """Digest of the content."""
        return f"{self.source.digest}[:{self.max_rows}]"

    @property
    def folder(self) -> MediaFolders:
        """Folder that relative media paths refer to, or several that are searched in order."""
        return self.source.folder

    def __len__(self) -> int:
        return min(self.max_rows, len(self.source))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        yield from self.source.read_range(start, min(stop, len(self)), needs)


def _compute_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e


@lru_cache(maxsize=2)
def _read_json_file_once(path: Path, digest: str) -> list[LocatedRow]:  # noqa: ARG001 - part of the cache's key
    """Read a JSON file once per process."""
    return list(read_json_file(path, path.name))
