"""Places in the repository that tests read."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SUPPORT = ROOT / "tests" / "support"
SHARED = ROOT.parent / "shared"
"""Reference values outside the repository; tests that need them skip where it is absent."""
