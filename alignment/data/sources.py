"""Sources of rows: files, folders and data sets of any size that can be read by row range."""

from __future__ import annotations

import hashlib
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from flex_judge.alignment.data.hub import HUB, HubDataset, SavedDataset, list_saved_splits
from flex_judge.alignment.data.row_files import RowFile, open_row_file
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.csv_rows import CSV_SUFFIXES
from flex_judge.judges.io.files import TABLE_ENDINGS
from flex_judge.judges.io.json_rows import LocatedRow, NeedsColumn, need_all
from flex_judge.judges.media.paths import MediaFolders
from flex_judge.judges.validation.text_files import get_format_suffix

SOURCE_FORMS = (
    "a .jsonl, .json, .csv, .tsv or .parquet file, a folder of such files or of datasets' save_to_disk (FOLDER@SPLIT "
    "if it has several splits), or hub:OWNER/NAME[:CONFIG][@SPLIT]"
)
"""Forms of rows that every command takes, for help texts and messages."""
_NOT_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "package.json")
"""Files that describe data sets and hold no rows."""
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Split -> words in names of files by which `datasets` recognises it."""


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
    """Open a source of rows: all commands open the data of users with it.

    Args:
        text: a `.jsonl`, `.json`, `.csv`, `.tsv` or `.parquet` file, all but the last also compressed; a folder of such
            files, or one that `datasets` wrote with `save_to_disk`, with `@SPLIT` if it has several splits; or
            `hub:OWNER/NAME[:CONFIG][@SPLIT]` for a data set on the hub or a local folder that `datasets.load_dataset`
            can load, where the default split is `train`.

    Raises:
        UsageError: the source does not exist, cannot be read or has no rows.
    """
    source: Source
    path, split = split_location(text)
    if is_dataset(text):
        source = open_dataset(text)
    elif path.is_dir():
        source = _open_folder(text, path, split)
    else:
        source = open_row_file(path, expected=SOURCE_FORMS)
    if not len(source):
        raise UsageError(f"{source.name}: has no rows")
    return source


def is_dataset(text: str) -> bool:
    """Return whether a text names a data set that `datasets` loads, see `open_dataset`."""
    path, _ = split_location(text)
    return text.startswith(HUB) or (path.is_dir() and list_saved_splits(path) is not None)


def open_dataset(text: str) -> HubDataset | SavedDataset:
    """Open a data set that `datasets` loads: one on the hub, or a folder of `save_to_disk`; see `open_source`.

    Raises:
        UsageError: the data set cannot be loaded.
    """
    path, split = split_location(text.removeprefix(HUB))
    if path.is_dir() and list_saved_splits(path) is not None:
        return SavedDataset.open(text, path, split)
    return HubDataset.open(text)


def has_text_tables(folder: Path) -> bool:
    """Return whether a folder holds tables whose cells are all text, of which `datasets` would guess the types."""
    return any(get_format_suffix(path) in CSV_SUFFIXES for path in folder.rglob("*"))


def split_location(text: str) -> tuple[Path, str | None]:
    """Split `FOLDER@SPLIT` into the folder and the split; a text without a split has None."""
    folder, at, split = text.rpartition("@")
    if at and split and not os.path.exists(text) and os.path.isdir(folder):
        return Path(folder), split
    return Path(text), None


def list_tables(folder: Path, split: str | None = None) -> list[Path]:
    """List the tables of a folder whose rows belong together, sorted.

    Files directly in the folder come first; only if there are none, subfolders are searched.

    Args:
        folder: the folder.
        split: split whose files are wanted; None if the folder has one.

    Raises:
        UsageError: there is no table, or it is not clear which ones are meant.
    """
    files = [path for path in folder.iterdir() if _is_table(path)]
    files = files or [path for path in folder.rglob("*") if _is_table(path) and not _is_hidden(path, folder)]
    if not files:
        raise UsageError(f"{folder}: has no file of rows; expected files that end in {TABLE_ENDINGS}")
    by_split: dict[str | None, list[Path]] = {}
    for file in sorted(files):
        by_split.setdefault(_find_split(file.relative_to(folder)), []).append(file)
    names = ", ".join(str(name) for name in by_split if name)
    if split is not None and split not in by_split:
        raise UsageError(f"{folder}@{split}: the folder has no such split; there are {names or 'no splits'}")
    if split is None and len(by_split) > 1:
        others = " and files without one" if None in by_split else ""
        raise UsageError(
            f"{folder}: has the splits {names}{others}; choose one, such as {folder}@{names.split(',')[0]}"
        )
    chosen = by_split[split] if split is not None else next(iter(by_split.values()))
    by_format: dict[str, Path] = {}
    for file in chosen:
        by_format.setdefault(get_format_suffix(file), file)
    if len(by_format) > 1:
        examples = " and ".join(str(file.relative_to(folder)) for file in list(by_format.values())[:2])
        raise UsageError(f"{folder}: has tables of several formats, such as {examples}; name one file")
    return chosen


def _is_table(path: Path) -> bool:
    suffix = get_format_suffix(path)
    is_row_file = suffix in (".jsonl", ".json", ".parquet", *CSV_SUFFIXES) and path.name not in _NOT_ROWS
    return is_row_file and not path.name.startswith((".", "_")) and path.is_file()


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _find_split(file: Path) -> str | None:
    """Find the split that the name of a file, or else of a folder above it, contains as a word."""
    for part in reversed(file.parts):
        words = re.split(r"[^a-z]+", part.lower())
        for split, names in _SPLITS.items():
            if not {*names}.isdisjoint(words):
                return split
    return None


def _open_folder(text: str, folder: Path, split: str | None) -> Source:
    files = list_tables(folder, split)
    return JoinedFiles(text, tuple(open_row_file(file, str(file.relative_to(folder))) for file in files))


@dataclass(frozen=True)
class JoinedFiles:
    """Rows of the files of a folder, one file after the other."""

    name: str
    """Folder as the user gave it, for messages."""
    files: tuple[RowFile, ...]

    @property
    def digest(self) -> str:
        """Digest of the files' names and contents."""
        parts = "".join(f"{file.name}\0{file.digest}\n" for file in self.files)
        return hashlib.sha256(parts.encode()).hexdigest()

    @cached_property  # asked for with every row
    def folder(self) -> MediaFolders:
        """Folders of the files, in which relative media paths are searched."""
        return tuple(dict.fromkeys(folder for file in self.files for folder in file.folder))

    def __len__(self) -> int:
        return sum(map(len, self.files))

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        starts = [0, *accumulate(map(len, self.files))]
        for i in range(max(0, bisect_right(starts, start) - 1), len(self.files)):
            if starts[i] >= stop:
                return
            yield from self.files[i].read_range(max(0, start - starts[i]), stop - starts[i], needs)


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
