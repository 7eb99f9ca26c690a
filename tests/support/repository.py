"""Paths in the repository and beside it that tests use."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SUPPORT = ROOT / "tests" / "support"


def find_shared(name: str) -> Path:
    """Find a file in the folder `shared` outside the repository; tests that need one are skipped if it is missing.

    Args:
        name: path in `shared`, which may be in any folder above the repository.

    Returns:
        The path, which does not exist if no such folder has the file.
    """
    paths = [parent / "shared" / name for parent in ROOT.parents]
    return next((path for path in paths if path.exists()), paths[0])
