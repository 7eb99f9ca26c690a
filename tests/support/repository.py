"""Paths in the repository that tests use."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SUPPORT = ROOT / "tests" / "support"
SHARED = ROOT.parent / "shared"
"""Folder with reference values outside the repository; tests that need it are skipped if it is missing."""
