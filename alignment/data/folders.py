"""Loading of data sets with `datasets`, and digests that keep its cache correct.

`datasets` (5.2) caches a folder that has a dataset card under the folder's name and a digest of the card. Another
folder of the same name, or the same folder with other rows, would silently load the old rows.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.io.files import read_table
from flex_judge.judges.validation.text_files import detect_form


def compute_content_digest(files: Iterable[Path]) -> str:
    """Compute a digest of file contents as 16 hex digits.

    Written into a dataset card, it makes a folder with other rows another data set for `datasets`.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def load_split(name: str, path: str, config: str | None = None, split: str = "train", **arguments: Any) -> Any:
    """Load a split with `datasets.load_dataset`, which stores it on disk in its cache.

    Args:
        name: name of the data set in messages.
        path: hub id, local folder, or name of a loader such as `json`.
        config: configuration of the data set.
        split: name of the split.
        **arguments: other arguments of `load_dataset`.

    Raises:
        UsageError: the data set cannot be loaded.
    """
    from datasets import disable_progress_bars, load_dataset
    from datasets.exceptions import DatasetsError

    disable_progress_bars()
    if Path(path).is_dir():
        arguments["cache_dir"] = _get_cache_folder(Path(path))
    try:
        return load_dataset(path, config, split=split, **arguments)
    except (DatasetsError, OSError, ValueError) as e:
        raise UsageError(f"{name}: cannot be loaded: {to_one_line(e)[:300]}") from e


def load_file(path: Path, columns: Collection[str]) -> tuple[Any, list[str]]:
    """Load the rows of a table (see `read_table`) that can be read.

    Args:
        path: the file.
        columns: columns that are kept if `datasets` cannot load the file itself.

    Returns:
        The rows as a `datasets.Dataset`, and the problem of each row that cannot be read.

    Raises:
        UsageError: the file, or every row, cannot be read.
    """
    loader = {".jsonl": "json", ".parquet": "parquet"}.get(path.suffix)
    # Checked first, because `datasets` gives up at the first bad row, or only when that row is used.
    states = {isinstance(row, UsageError) for _, row in read_table(path)}
    if loader and states == {False} and (loader == "parquet" or detect_form(path).is_plain):
        # `datasets` reads fewer forms, for example no mark before every row.
        with suppress(UsageError):
            return load_split(str(path), loader, data_files=str(path)), []
    from datasets import Dataset

    rows: list[Mapping[str, Any]] = []
    problems = []
    for _, row in read_table(path, columns.__contains__):
        if isinstance(row, UsageError):
            problems.append(to_one_line(row))
        else:
            rows.append(row)
    if not rows:
        raise UsageError(problems[0] if problems else f"{path}: has no rows")
    names = {name: None for row in rows for name in row if name in columns}
    try:
        table = Dataset.from_list([{name: row.get(name) for name in names} for row in rows])
    except (ValueError, TypeError) as e:  # the errors of pyarrow for columns of several types
        raise UsageError(f"{path}: cannot be loaded: {to_one_line(e)[:300]}") from e
    return table, problems


MEDIA_FEATURES = ("Image", "Audio", "Video", "Pdf", "Nifti")
"""Features of `datasets` whose values are files."""


def disable_decoding(rows: Any) -> Any:
    """Make the rows of a data set return media as stored, `{"bytes", "path"}`, instead of decoded.

    One medium that cannot be decoded would otherwise end the reading of the whole data set.
    """
    features = {name: _disable_feature(feature) for name, feature in rows.features.items()}
    if features == dict(rows.features):
        return rows
    rows = copy.deepcopy(rows)  # Shares the rows themselves, which are files mapped into memory.
    # Not cast_column: for lists of images, it writes all rows to the disk again.
    rows.info.features = type(rows.features)(features)
    return rows


def _disable_feature(feature: Any) -> Any:
    if isinstance(feature, dict):
        return {name: _disable_feature(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_disable_feature(inner) for inner in feature]
    # Features such as Json are decoded as well, but hold no media.
    changes = {"decode": False} if type(feature).__name__ in MEDIA_FEATURES else {}
    if hasattr(feature, "feature"):
        changes["feature"] = _disable_feature(feature.feature)
    changed = copy.copy(feature) if changes else feature
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def _get_cache_folder(folder: Path) -> str:
    """Return a cache folder for `datasets` that is specific to the current files of a folder."""
    from datasets import config

    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = file.stat()
        digest.update(f"{file.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return str(Path(config.HF_DATASETS_CACHE) / f"flex-judge-{digest.hexdigest()[:16]}")
