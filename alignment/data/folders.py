"""Loading of data sets with `datasets`, and digests that keep its cache correct.

`datasets` (5.2) caches a folder that has a dataset card under the folder's name and a digest of the card. Another
folder of the same name, or the same folder with other rows, would silently load the old rows.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, to_one_line


def compute_content_digest(files: Iterable[Path]) -> str:
    """Compute a digest of file contents as 16 hex digits.

    Written into a dataset card, it makes a folder with other rows another data set for `datasets`.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def list_hub_errors() -> tuple[type[Exception], ...]:
    """List the types of errors of a hub that cannot be reached, or that refuses or does not know a repository."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    # The hub's client lets the errors of its HTTP library through, which is httpx under one of two names.
    libraries = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    transport = [library.HTTPError for library in libraries]
    return (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, OSError, *transport)


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
    # Its warnings about repeated attempts would bury the one line that matters.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    if Path(path).is_dir():
        arguments["cache_dir"] = _get_cache_folder(Path(path))
    try:
        return load_dataset(path, config, split=split, **arguments)
    except (DatasetsError, ValueError, *list_hub_errors()) as e:
        raise UsageError(f"{name}: cannot be loaded: {to_one_line(e)[:300]}") from e


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
