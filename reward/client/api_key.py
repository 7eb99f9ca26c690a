"""Where a service's key comes from."""

from __future__ import annotations

import os
from pathlib import Path

from flex_judge.judges.errors import UsageError


def read_key(source: str) -> str:
    """The key that `env:NAME` or a file holds. A key on the command line would be seen by every user of a machine.

    Raises:
        UsageError: there is none; the message never shows a key.
    """
    kind, _, name = source.partition(":")
    if kind == "env":
        key = os.environ.get(name, "").strip()
        if not key:
            raise UsageError(f"api key {source}: the environment variable {name} is not set")
        return key
    try:
        key = Path(source).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError("api key: must be env:NAME, or a file that can be read and holds the key") from e
    if not key or not key.isprintable() or " " in key:
        raise UsageError("api key: the file must hold one line, the key, without spaces")
    return key
