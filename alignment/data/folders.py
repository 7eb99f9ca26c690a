"""Data sets in folders of this machine.

`datasets` (5.2) keeps what it has read of a folder with a card under the folder's last name and a digest of the card:
another folder of that name, or the same one with other rows, would silently be the old rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def compute_content_digest(files: Iterable[Path]) -> str:
    """Sixteen hex digits that change with the content of files. In a card, they make other rows another data set."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:16]


def get_cache_folder(folder: Path) -> str:
    """A place in the cache of `datasets` for what is in a folder now, and for nothing else."""
    from datasets import config

    digest = hashlib.sha256(str(folder.resolve()).encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        state = file.stat()
        digest.update(f"{file.relative_to(folder)}:{state.st_size}:{state.st_mtime_ns}\n".encode())
    return str(Path(config.HF_DATASETS_CACHE) / f"flex-judge-{digest.hexdigest()[:16]}")
