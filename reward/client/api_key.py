"""Load the API key of a judge service from the environment or a file."""

from __future__ import annotations

import os
from pathlib import Path

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.text_files import read_text


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
