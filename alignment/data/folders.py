"""Data sets in local folders, and digests that keep the cache of `datasets` correct.

`datasets` (5.2) caches a folder that has a dataset card under the folder's name and a digest of the card. Another
folder of the same name, or the same folder with other rows, would silently load the old rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def compute_content_digest(files: Iterable[Path]) -> str:
    """Compute a digest of file contents as 16 hex digits.

    Written into a dataset card, it makes a folder with other rows another data set for `datasets`.
    """
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def get_cache_folder(folder: Path) -> str:
    """Return a cache folder for `datasets` that is specific to the current files of a folder."""
    from datasets import config

    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        status = file.stat()
        digest.update(f"{file.relative_to(folder)}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    return str(Path(config.HF_DATASETS_CACHE) / f"flex-judge-{digest.hexdigest()[:16]}")
