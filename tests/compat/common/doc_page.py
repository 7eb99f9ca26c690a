"""Settings in the documentation, which the drivers read, so that what users paste is what is run."""

from __future__ import annotations

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[3] / "docs" / "trainers"


def read_block(page: str, title: str) -> str:
    """Read the fenced block with a title on a page in docs/trainers.

    Raises:
        ValueError: the page has no such block.
    """
    text = (PAGES / page).read_text(encoding="utf-8")
    block = re.search(rf'^```\w+ title="{re.escape(title)}"\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)
    if block is None:
        raise ValueError(f"docs/trainers/{page}: expected a fenced block with the title {title!r}")
    return block[1]


def read_settings(page: str, title: str, url: str) -> list[str]:
    """Read the lines of a block with settings, and put the URL of a service in the place of `http://HOST:8000`."""
    lines = read_block(page, title).replace("http://HOST:8000", url).splitlines()
    return [line.strip() for line in lines if line.strip()]
