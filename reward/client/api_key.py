"""Load the API keys of a judge service from the environment or a file."""

from __future__ import annotations

import hashlib
import os
import re

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.http import read_key_source

MIN_KEY_LENGTH = 20
"""Length below which a key counts as short: hashes of short keys can be reversed by trying all keys."""
_KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_NAME = r"[A-Za-z0-9_.-]{1,64}"
_NAMED_KEY = re.compile(rf"({_NAME}):([!-~]+)")
_HASHED_KEYS = re.compile(rf"((^|\n)({_NAME}:)?{_KEY_HASH.pattern})+")


def split_keys(api_key: str) -> list[tuple[str, str]]:
    """Split the keys of a service, one per line, into pairs of name and key; a key without a name has an empty one."""
    matches = [(line, None if _KEY_HASH.fullmatch(line) else _NAMED_KEY.fullmatch(line)) for line in api_key.split()]
    return [(match[1], match[2]) if match else ("", line) for line, match in matches]


def hash_key(key: str) -> str:
    """Return `sha256:` and the hash of a key in hex."""
    return f"sha256:{hashlib.sha256(key.encode(errors='replace')).hexdigest()}"


def hash_keys(api_key: str) -> str:
    """Replace the keys of a service by their hashes, which is all it needs; names and hashes are unchanged."""
    entries = [(name, key if _KEY_HASH.fullmatch(key) else hash_key(key)) for name, key in split_keys(api_key)]
    return "\n".join(f"{name}:{key}" if name else key for name, key in entries)


def has_short_key(api_key: str) -> bool:
    """Whether a key of a service is shorter than `MIN_KEY_LENGTH`."""
    return any(len(key) < MIN_KEY_LENGTH for _, key in split_keys(api_key))


def read_keys(source: str) -> str:
    """Read the keys that a service accepts: one per line, `KEY` or `NAME:KEY`. The access log shows the names.

    Args:
        source: `env:NAME` of a variable, the path of a file, or hashes `sha256:HEX`, as `hash_keys` writes them. Empty
            lines and lines that start with # are skipped.

    Returns:
        The keys, one per line.

    Raises:
        UsageError: there is no key at the source, or two keys share a name. The message never contains a key.
    """
    if _HASHED_KEYS.fullmatch(source):
        return source
    lines = [line.strip() for line in read_key_source(source).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines or not all(re.fullmatch(r"[!-~]+", line) for line in lines):
        raise UsageError("api key: expected lines KEY or NAME:KEY, of ASCII characters without spaces")
    names = [name for name, _ in split_keys("\n".join(lines))]
    if len(set(names)) < len(names):
        raise UsageError("api key: several keys need different names; write each line as NAME:KEY")
    return "\n".join(lines)


def take_keys(source: str) -> str:
    """Read keys and remove their environment variable, so that processes started from now on do not inherit them."""
    keys = read_keys(source)
    if source.startswith("env:"):
        os.environ.pop(source.removeprefix("env:"), None)
    return keys
