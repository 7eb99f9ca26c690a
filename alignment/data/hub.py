"""Data sets that `datasets` loads: of the hub, of local folders, and folders of `save_to_disk`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import compute_content_digest, disable_decoding, list_hub_errors, load_split
from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.extras import import_optional
from flex_judge.judges.io.json_rows import LocatedRow, NeedsColumn, UnreadableRowError, need_all
from flex_judge.judges.io.parquet import VALUE_ERRORS, describe_value_error

HUB = "hub:"
"""Prefix of data sets that `datasets` loads."""


@dataclass(frozen=True)
class _DatasetSource(ABC):
    """Split of a data set. `datasets` memory-maps the rows, so only requested rows are read."""

    name: str
    """Text that named the source, for messages."""
    digest: str
    """Commit, or fingerprint of the table."""
    folder: Path
    """Folder that relative media paths refer to."""
    count: int
    """Number of rows."""

    @property
    @abstractmethod
    def table(self) -> Any:
        """The rows as a `datasets.Dataset`."""

    def __len__(self) -> int:
        return self.count

    def read_range(self, start: int, stop: int, needs: NeedsColumn = need_all) -> Iterator[LocatedRow]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages. Media are not decoded."""
        names = self.table.column_names
        table = _disable_decoding_once(self).select_columns([name for name in names if needs(name)])
        for number in range(start, min(stop, self.count)):
            where = f"{self.name}, row {number + 1}"
            try:
                yield where, dict.fromkeys(names) | table[number]
            except VALUE_ERRORS:
                yield where, _describe_bad_row(table, number, where)


@dataclass(frozen=True)
class HubDataset(_DatasetSource):
    """Split of a data set of the hub, or of a folder that `datasets.load_dataset` can load."""

    path: str
    """Hub id or local folder."""
    config: str | None
    """Configuration of the data set."""
    split: str
    """Name of the split."""
    revision: str | None
    """Commit on the hub, so that all workers read the same rows even if the repository changes; None for folders."""

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


@dataclass(frozen=True)
class SavedDataset(_DatasetSource):
    """Data set that `datasets` wrote to a folder with `save_to_disk`."""

    path: str
    """Absolute path of the folder of the split."""

    @classmethod
    def open(cls, name: str, folder: Path, split: str | None) -> SavedDataset:
        """Open a folder of `save_to_disk`.

        Args:
            name: text that named the source, for messages.
            folder: the folder, see `list_saved_splits`.
            split: split of a DatasetDict; None if there is only one.

        Raises:
            UsageError: there is no such split, or the data set cannot be loaded.
        """
        splits = list_saved_splits(folder) or ()
        if split is None and len(splits) > 1:
            raise UsageError(f"{name}: has the splits {', '.join(splits)}; choose one, such as {folder}@{splits[0]}")
        if split is not None and split not in splits:
            raise UsageError(f"{name}: has no split {split!r}; there are {', '.join(splits) or 'no splits'}")
        path = folder.absolute() / (split or (splits[0] if splits else ""))
        table = _load_saved_once(name, str(path))
        return cls(name, _compute_saved_digest(path), folder.absolute(), len(table), str(path))

    @property
    def table(self) -> Any:
        """The rows as a `datasets.Dataset`."""
        return _load_saved_once(self.name, self.path)


def list_saved_splits(folder: Path) -> tuple[str, ...] | None:
    """List the splits of a folder that `datasets` wrote with `save_to_disk`.

    Returns:
        The splits, which are empty for a data set without splits; None if the folder is not of `save_to_disk`.
    """
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return ()
    if not (folder / "dataset_dict.json").is_file():
        return None
    try:
        return tuple(map(str, json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]))
    except (OSError, ValueError, TypeError, KeyError) as e:
        raise UsageError(f"{folder / 'dataset_dict.json'}: cannot be read; save the data set again") from e


@lru_cache(maxsize=2)
def _load_saved_once(name: str, path: str) -> Any:
    """Load a folder of `save_to_disk` once per process."""
    datasets = import_optional("datasets", "a folder of save_to_disk")
    try:
        return datasets.load_from_disk(path)
    except VALUE_ERRORS as e:
        raise UsageError(f"{name}: cannot be loaded: {to_one_line(e)[:300]}") from e


def _compute_saved_digest(folder: Path) -> str:
    return compute_content_digest(sorted(folder.glob("*.arrow")))


def _describe_bad_row(table: Any, number: int, where: str) -> UsageError:
    """Find the columns of a row that cannot be read."""
    data: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for name in table.column_names:
        try:
            data |= table.select_columns([name])[number]
        except VALUE_ERRORS as e:
            problems[name] = describe_value_error(e)
    return UnreadableRowError.from_fields(where, data, problems or {"": "unknown problem"})


@lru_cache(maxsize=2)
def _disable_decoding_once(source: _DatasetSource) -> Any:
    return disable_decoding(source.table)


def _fetch_revision(path: str) -> str | None:
    """Fetch the current commit of a data set on the hub; None if the hub is unreachable and the cache has to do."""
    from huggingface_hub import HfApi

    try:
        sha: str | None = HfApi().dataset_info(path).sha
    except list_hub_errors():
        return None
    return sha


@lru_cache(maxsize=2)
def _load_split_once(name: str, path: str, config: str | None, split: str, revision: str | None) -> Any:
    """Load a split once per process."""
    from datasets import DownloadConfig

    # Without an answer from the hub only its cache can help, and further attempts would take a minute.
    only_cached = revision is None and not Path(path).is_dir()
    options = {"download_config": DownloadConfig(local_files_only=True)} if only_cached else {}
    return load_split(name, path, config, split, revision=revision, **options)
