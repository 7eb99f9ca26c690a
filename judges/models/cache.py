"""Where converted checkpoints are kept, and what tells one checkpoint from another."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SAMPLE_BYTES, SAMPLES = 1 << 16, 512  # files of up to 32 MiB are read whole
FINGERPRINT_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".safetensors", ".bin", ".pt")
"""Endings of what makes a checkpoint: configuration, chat template, vocabulary and merges, weights."""


def get_cache_dir() -> Path:
    """The folder for converted checkpoints: `FLEX_JUDGE_CACHE`, else in the user's cache directory."""
    base = os.environ.get("FLEX_JUDGE_CACHE")
    if base:
        return Path(base).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flex-judge"


def fingerprint_folder(path: Path) -> str:
    """Twelve hex digits that change when a checkpoint does.

    Every file with one of the endings in `FINGERPRINTED` counts: configuration, tokenizer and chat template whole; of
    large weights, evenly spaced samples, because tuning changes numbers everywhere and reading many gigabytes takes
    minutes.
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
    """The folder `target`, which `make` is given to write where it is not there yet. Of many processes one makes it and
    the others wait; what a killed one left half made is made anew.
    """
    with hold_lock(target):
        if target.is_dir():
            return target
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        make(partial)
        partial.rename(target)
    return target


@contextmanager
def hold_lock(target: Path) -> Iterator[None]:
    """Hold a file lock beside `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(target.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
