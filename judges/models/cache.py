"""Cache folder for converted checkpoints, and fingerprints that identify a checkpoint by its content."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_BYTES, SAMPLES = 1 << 16, 512  # files of up to 32 MiB are read completely
FINGERPRINT_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors", ".bin", ".pt")
"""Suffixes of the files that define a checkpoint: configuration, chat template, vocabulary, merges and weights."""


def get_cache_dir() -> Path:
    """Return the folder for converted checkpoints: `FLEX_JUDGE_CACHE`, else `flex-judge` in the user's cache folder."""
    base = os.environ.get("FLEX_JUDGE_CACHE")
    if base:
        return Path(base).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flex-judge"


def fingerprint_folder(path: Path) -> str:
    """Hash the files of a checkpoint into twelve hex digits.

    Files with a suffix in `FINGERPRINT_SUFFIXES` count. Files above 32 MiB are hashed at evenly spaced samples: tuning
    changes numbers everywhere, and reading many gigabytes takes minutes.
    """
    digest = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.suffix in FINGERPRINT_SUFFIXES and p.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        step = max(SAMPLE_BYTES, size // SAMPLES)
        with file.open("rb") as content:
            for start in range(0, size, step):
                content.seek(start)
                digest.update(content.read(SAMPLE_BYTES))
    return digest.hexdigest()[:12]


def build_once(target: Path, make: Callable[[Path], None]) -> Path:
    """Build the folder `target` if it does not exist.

    Processes that ask for the same folder wait for the one that builds it. A partial build left by a killed process is
    discarded.

    Args:
        target: the folder.
        make: writes the content into the folder that it is given.

    Returns:
        `target`.
    """
    with hold_lock(target):
        if target.is_dir():
            return target
        # Build under another name and rename: a folder named `target` is always complete.
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.rename(target)
    return target


@contextmanager
def hold_lock(target: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `<target>.lock`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(target.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
