"""Load the API key of a judge service from the environment or a file."""

from __future__ import annotations

import os
import re
from pathlib import Path

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.text_files import read_text

MIN_KEY_LENGTH = 20
"""Length below which a key counts as short: hashes of short keys can be reversed by trying all keys."""


def read_service_key(source: str) -> str:
    """Read the key that a service requires; the hash of a key is accepted too, as a service needs no more.

    Args:
        source: `env:NAME`, the path of a file, or `sha256:HEX`.

    Raises:
        UsageError: there is no key at the source.
    """
    return source if re.fullmatch(r"sha256:[0-9a-f]{64}", source) else read_key(source)


def take_key(source: str) -> str:
    """Read a key and remove its environment variable, so that processes started from now on do not inherit it."""
    key = read_service_key(source)
    if source.startswith("env:"):
        os.environ.pop(source.removeprefix("env:"), None)
    return key


def read_key(source: str) -> str:
    """Read an API key from an environment variable or a file.

    The key itself is never accepted as an argument: every user of the machine could see it in the process list.

    Args:
        source: `env:NAME`, or the path of a file with the key in one line.

    Raises:
        UsageError: there is no key at the source. The message never contains a key.
    """
    kind, _, name = source.partition(":")
    if kind == "env":
        key = os.environ.get(name, "").strip()
        if not key:
            raise UsageError(f"api key {source}: the environment variable {name} is not set")
        return key
    try:
        key = read_text(Path(source)).strip()
    except UsageError as e:
        # The source is not repeated: users sometimes pass the key itself instead of a path.
        raise UsageError(
            "api key: expected env:NAME or a readable file, got neither; export the key as JUDGE_KEY, for example, and "
            "pass env:JUDGE_KEY"
        ) from e
    if not key or not key.isprintable() or " " in key:
        raise UsageError("api key: the file must hold one line, the key, without spaces")
    return key
