"""Sources of prompts: files and data sets of any size that can be read by row range."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from flex_judge.alignment.data.folders import load_split
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import parse_object

INDEX_STRIDE = 64
"""Number of rows between two indexed offsets of a JSON lines file."""
HUB = "hub:"
"""Prefix of data sets that `datasets` loads."""

LocatedRow = tuple[str, Mapping[str, Any] | UsageError]
"""Location of a row for messages, and the row or the error that describes why it is invalid."""


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
    def folder(self) -> Path:
        """Folder that relative media paths refer to."""
        ...

    def __len__(self) -> int: ...

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Yield rows `start` (from 0) to `stop` (exclusive), each with its location for messages."""
        ...


def open_source(text: str) -> Source:
    """Open a source of prompts.

    Args:
        text: a `.jsonl` or `.parquet` file, or `hub:OWNER/NAME[:CONFIG][@SPLIT]` for a data set on the hub or a local
            folder that `datasets.load_dataset` can load. The default split is `train`.

    Raises:
        UsageError: the source does not exist, cannot be read or has no rows.
    """
    source: Source
    path = Path(text)
    if text.startswith(HUB):
        source = HubDataset.open(text)
    elif path.suffix == ".jsonl":
        source = JsonLinesFile.open(path)
    elif path.suffix == ".parquet":
        source = ParquetFile.open(path)
    else:
        raise UsageError(f"{text}: expected a file that ends in .jsonl or .parquet, or hub:OWNER/NAME")
    if not len(source):
        raise UsageError(f"{source.name}: has no rows")
    return source


@dataclass(frozen=True)
class _RowFile:
    """Common fields of file sources."""

    path: Path
    """Absolute path of the file."""
    digest: str
    """SHA-256 hex digest of the content."""
    folder: Path
    """Folder that relative media paths refer to."""
    count: int
    """Number of rows."""

    @property
    def name(self) -> str:
        """File name for messages."""
        return self.path.name

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class JsonLinesFile(_RowFile):
    """JSON lines file: one JSON object per line; empty lines are skipped."""

    offsets: tuple[tuple[int, int], ...] = field(repr=False)
    """Byte offset and line number (from 1) of every INDEX_STRIDE-th row, so that ranges can be read without a scan."""

    @classmethod
    def open(cls, path: Path) -> JsonLinesFile:
        """Read the file once to count rows and index their offsets.

        Raises:
            UsageError: the file cannot be read.
        """
        digest, count, offset = hashlib.sha256(), 0, 0
        offsets = []
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        if count % INDEX_STRIDE == 0:
                            offsets.append((offset, number))
                        count += 1
                    digest.update(line)
                    offset += len(line)
        except OSError as e:
            raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
        path = path.resolve()  # workers may have another working directory
        return cls(path, digest.hexdigest(), path.parent, count=count, offsets=tuple(offsets))

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        stop = min(stop, self.count)
        if start >= stop:
            return
        offset, first_line = self.offsets[start // INDEX_STRIDE]
        skipped = start % INDEX_STRIDE
        with self.path.open("rb") as file:
            file.seek(offset)
            lines = ((number, line) for number, line in enumerate(file, first_line) if line.strip())
            for number, line in itertools.islice(lines, skipped, skipped + stop - start):
                where = f"{self.name}, line {number}"
                row: Mapping[str, Any] | UsageError
                try:
                    row = parse_object(line, where)
                except UsageError as e:
                    row = e
                yield where, row


@dataclass(frozen=True)
class ParquetFile(_RowFile):
    """Parquet file, read by row group."""

    @classmethod
    def open(cls, path: Path) -> ParquetFile:
        """Read the number of rows and hash the file.

        Raises:
            UsageError: the file cannot be read or is not a Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                count = pq.ParquetFile(file).metadata.num_rows
        except OSError as e:
            raise UsageError(f"{path}: cannot be read: {e.strerror or e}") from e
        except pa.ArrowInvalid as e:
            raise UsageError(f"{path}: not a Parquet file: {e}") from e
        return cls(path.resolve(), digest, path.resolve().parent, count)

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        import pyarrow.parquet as pq

        with self.path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            group_start = 0
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                low, high = max(start, group_start), min(stop, group_start + size)
                if low < high:
                    table = parquet.read_row_group(group).slice(low - group_start, high - low)
                    for number, row in enumerate(table.to_pylist(), low + 1):
                        yield f"{self.name}, row {number}", row
                group_start += size


@dataclass(frozen=True)
class HubDataset:
    """Split of a data set that `datasets` loads. Its cache memory-maps the rows, so only requested rows are read."""

    name: str
    """Text that named the source, for messages."""
    path: str
    """Hub id or local folder."""
    config: str | None
    """Configuration of the data set."""
    split: str
    """Name of the split."""
    revision: str | None
    """Commit on the hub, so that all workers read the same rows even if the repository changes; None for folders."""
    digest: str
    """Commit, or fingerprint of the table."""
    folder: Path
    """Folder that relative media paths refer to."""
    count: int
    """Number of rows."""

    @classmethod
    def open(cls, text: str) -> HubDataset:
        """Load the data set that a text `hub:OWNER/NAME[:CONFIG][@SPLIT]` names.

        Raises:
            UsageError: the text has another form, or the data set cannot be loaded.
        """
        path, _, split = text.removeprefix(HUB).partition("@")
        path, _, config = path.partition(":")
        if not path:
            raise UsageError(f"{text}: expected hub:OWNER/NAME[:CONFIG][@SPLIT]")
        split, is_local = split or "train", Path(path).is_dir()
        revision = None if is_local else _fetch_revision(path)
        table = _load_split_once(text, path, config or None, split, revision)
        return cls(
            name=text,
            path=path,
            config=config or None,
            split=split,
            revision=revision,
            digest=revision or table._fingerprint,
            folder=Path(path).resolve() if is_local else Path.cwd(),
            count=len(table),
        )

    @property
    def table(self) -> Any:
        """The rows as a `datasets.Dataset`."""
        return _load_split_once(self.name, self.path, self.config, self.split, self.revision)

    def __len__(self) -> int:
        return self.count

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        table = self.table
        for number in range(start, min(stop, self.count)):
            yield f"{self.name}, row {number + 1}", table[number]


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
    def folder(self) -> Path:
        """Folder that relative media paths refer to."""
        return self.source.folder

    def __len__(self) -> int:
        return min(self.max_rows, len(self.source))

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        yield from self.source.read_range(start, min(stop, len(self)))


def _fetch_revision(path: str) -> str | None:
    """Fetch the current commit of a data set on the hub; None if the hub is unreachable and the cache has to do."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        sha: str | None = HfApi().dataset_info(path).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return None
    return sha


@lru_cache(maxsize=2)
def _load_split_once(name: str, path: str, config: str | None, split: str, revision: str | None) -> Any:
    """Load a split once per process."""
    return load_split(name, path, config, split, revision=revision)
