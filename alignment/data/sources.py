"""Where prompts come from: files and data sets of any size, of which any stretch of rows can be read by itself."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from flex_judge.alignment.data.folders import get_cache_folder
from flex_judge.judges.errors import UsageError

INDEX_STRIDE = 64
"""Lines between two places of a JSON lines file that are remembered."""
HUB = "hub:"

LocatedRow = tuple[str, Mapping[str, Any] | UsageError]
"""Where a row stands, for messages, and the row, or what is wrong with it."""


class Source(Protocol):
    """Rows that can be counted and read from anywhere on. Small and picklable: whoever reads opens it anew."""

    @property
    def name(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def digest(self) -> str:
        """Changes with its content."""
        ...

    @property
    def folder(self) -> Path:
        """Where relative paths of media start from."""
        ...

    def __len__(self) -> int: ...

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        """Rows `start` (from 0) to `stop`, this one not included."""
        ...


def open_source(text: str) -> Source:
    """The source that a text names: a `.jsonl` or `.parquet` file, or `hub:OWNER/NAME[:CONFIG][@SPLIT]`, a data set of
    the hub or a folder that `datasets.load_dataset` takes (split `train` where none is named).

    Raises:
        UsageError: there is no such thing, or it has no rows.
    """
    source: Source
    if text.startswith(HUB):
        source = HubDataset.open(text)
    else:
        path = Path(text)
        kinds = {".jsonl": JsonLinesFile, ".parquet": ParquetFile}
        if path.suffix not in kinds:
            raise UsageError(f"{text}: expected a file that ends in .jsonl or .parquet, or hub:OWNER/NAME")
        source = kinds[path.suffix].open(path)  # type: ignore[attr-defined]
    if not len(source):
        raise UsageError(f"{source.name}: holds no row")
    return source


@dataclass(frozen=True)
class _RowFile:
    """What the kinds of files share."""

    path: Path
    digest: str
    folder: Path
    count: int

    @property
    def name(self) -> str:
        return self.path.name

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class JsonLinesFile(_RowFile):
    """A file with a JSON object on each line; empty lines do not count."""

    places: tuple[tuple[int, int], ...] = field(repr=False)
    """Of every STRIDE-th row: where it begins, in bytes, and the number of its line, from 1."""

    @classmethod
    def open(cls, path: Path) -> JsonLinesFile:
        """Read the file once, to count its rows."""
        digest, count, at = hashlib.sha256(), 0, 0
        places = []
        try:
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        if count % INDEX_STRIDE == 0:
                            places.append((at, number))
                        count += 1
                    digest.update(line)
                    at += len(line)
        except OSError as e:
            raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
        return cls(path.resolve(), digest.hexdigest(), path.resolve().parent, count, tuple(places))

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        if start >= min(stop, self.count):
            return
        at, number = self.places[start // INDEX_STRIDE]
        with self.path.open("rb") as file:
            file.seek(at)
            lines = ((n, line) for n, line in enumerate(file, number) if line.strip())
            for n, line in itertools.islice(
                lines, start % INDEX_STRIDE, start % INDEX_STRIDE + min(stop, self.count) - start
            ):
                where = f"{self.name}, line {n}"
                yield where, _parse_object(where, line)


@dataclass(frozen=True)
class ParquetFile(_RowFile):
    """A Parquet file."""

    @classmethod
    def open(cls, path: Path) -> ParquetFile:
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
        import pyarrow.parquet as pq

        with self.path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            first = 0
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).num_rows
                low, high = max(start, first), min(stop, first + size)
                if low < high:
                    table = file.read_row_group(group).slice(low - first, high - low)
                    for number, row in enumerate(table.to_pylist(), low + 1):
                        yield f"{self.name}, row {number}", row
                first += size


@dataclass(frozen=True)
class HubDataset:
    """A split of a data set that `datasets` loads: its cache holds it on disk, and reads of it only what is asked."""

    name: str
    path: str
    config: str | None
    split: str
    revision: str | None
    """Of the hub's repository, so that all read the same rows though others change it; None of a folder."""
    digest: str
    folder: Path
    count: int

    @classmethod
    def open(cls, text: str) -> HubDataset:
        path, _, split = text.removeprefix(HUB).partition("@")
        path, _, config = path.partition(":")
        if not path:
            raise UsageError(f"{text}: expected hub:OWNER/NAME[:CONFIG][@SPLIT]")
        split, here = split or "train", Path(path).is_dir()
        revision = None if here else _fetch_revision(path)
        table = _load_split_once(text, path, config or None, split, revision)
        folder = Path(path).resolve() if here else Path.cwd()
        return cls(text, path, config or None, split, revision, revision or table._fingerprint, folder, len(table))

    @property
    def table(self) -> Any:
        """The `datasets.Dataset`."""
        return _load_split_once(self.name, self.path, self.config, self.split, self.revision)

    def __len__(self) -> int:
        return self.count

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        table = self.table
        for number in range(start, min(stop, self.count)):
            yield f"{self.name}, row {number + 1}", table[number]


@dataclass(frozen=True)
class FirstRows:
    """The first rows of a source."""

    source: Source
    most: int

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def digest(self) -> str:
        return f"{self.source.digest}[:{self.most}]"

    @property
    def folder(self) -> Path:
        return self.source.folder

    def __len__(self) -> int:
        return min(self.most, len(self.source))

    def read_range(self, start: int, stop: int) -> Iterator[LocatedRow]:
        yield from self.source.read_range(start, min(stop, len(self)))


def _fetch_revision(path: str) -> str | None:
    """The commit that a data set of the hub is at; None where the hub is not asked, and the cache has what there is."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        sha: str | None = HfApi().dataset_info(path).sha
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError):
        return None
    return sha


@lru_cache(maxsize=2)
def _load_split_once(name: str, path: str, config: str | None, split: str, revision: str | None) -> Any:
    """A split, opened once in each process."""
    return load_split(name, path, config, split, revision=revision)


def load_split(name: str, path: str, config: str | None = None, split: str = "train", **arguments: Any) -> Any:
    """A split that `datasets.load_dataset` gives, which lies on disk in its cache.

    Args:
        name: what messages call it.

    Raises:
        UsageError: it cannot be had.
    """
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    disable_progress_bars()
    if Path(path).is_dir():
        arguments["cache_dir"] = get_cache_folder(Path(path))
    try:
        return load_dataset(path, config, split=split, **arguments)
    except (DatasetsError, OSError, ValueError) as e:
        raise UsageError(f"{name}: cannot be loaded: {' '.join(str(e).split())[:300]}") from e


def _parse_object(where: str, line: bytes) -> Mapping[str, Any] | UsageError:
    try:
        value = json.loads(line)
    except ValueError as e:  # JSONDecodeError and UnicodeDecodeError are both
        return UsageError(f"{where}: not JSON ({getattr(e, 'msg', e)})")
    if not isinstance(value, dict):
        return UsageError(f"{where}: expected a JSON object, got {type(value).__name__}")
    return value
