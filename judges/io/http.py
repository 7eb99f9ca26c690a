"""Shared parts of HTTP clients: addresses, keys, error messages, and the delays of retries."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.text_files import read_text

if TYPE_CHECKING:
    import httpx

MAX_DOUBLINGS = 32


def normalize_base_url(url: str) -> str:
    """Return the base URL of the API; `/v1` is appended if the URL has no path.

    Raises:
        UsageError: The URL is invalid. The message does not repeat it, because it may hold a key.
    """
    try:
        parts = urlsplit(url.rstrip("/"))
        is_valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        is_valid = False
    if not is_valid or parts.username is not None or parts.query or parts.fragment:
        raise UsageError("url: expected http(s)://HOST[:PORT][/PATH], such as http://10.0.0.1:8000/v1, without a key")
    return parts.geturl() if parts.path else f"{parts.geturl()}/v1"


def read_key(source: str) -> str:
    """Read an API key from an environment variable or a file.

    The key itself is never accepted as an argument: every user of the machine could see it in the process list.

    Args:
        source: `env:NAME`, or the path of a file with the key in one line.

    Raises:
        UsageError: there is no key at the source. The message never contains a key.
    """
    key = read_key_source(source)
    if not key or not key.isprintable() or " " in key:
        raise UsageError("api key: the file must hold one line, the key, without spaces")
    return key


def read_key_source(source: str) -> str:
    """Return the text at `env:NAME` or in a file, without white space around it.

    Raises:
        UsageError: there is no such variable or file. The message never contains a key.
    """
    kind, _, name = source.partition(":")
    if kind == "env":
        key = os.environ.get(name, "").strip()
        if not key:
            raise UsageError(f"api key {source}: the environment variable {name} is not set")
        return key
    try:
        return read_text(Path(source)).strip()
    except UsageError as e:
        # The source is not repeated: users sometimes pass the key itself instead of a path.
        raise UsageError(
            "api key: expected env:NAME or a readable file, got neither; export the key as JUDGE_KEY, for example, and "
            "pass env:JUDGE_KEY"
        ) from e


def describe_no_response(error: Exception) -> str:
    """Describe why a request got no response."""
    return f"no answer ({type(error).__name__}{f': {error}' if str(error) else ''})"


def extract_message(response: httpx.Response) -> str:
    """Return the message of an error response: `error.message` for OpenAI, or one of several common fields."""
    try:
        body = response.json()
    except ValueError:
        return response.text
    while isinstance(body, dict):
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), response.text)
    return body if isinstance(body, str) else response.text


def parse_retry_after(header: str | None) -> float:
    """Parse the seconds of a Retry-After header; 0 if it is missing or a date, which this service never sends."""
    return float(header) if header is not None and header.strip().isdecimal() else 0.0


class Backoff:
    """Exponential backoff with full jitter for the retries of one request.

    Jitter keeps ranks that failed together from retrying together (AWS Architecture Blog, "Exponential Backoff and
    Jitter", 2015).
    """

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._tries = 0

    def next_delay(self, retry_after_s: float = 0.0) -> float:
        """Draw the delay before the next try, in seconds.

        The delay is uniform between 0 and `first_s`; the upper bound doubles with each try up to `max_s`.

        Args:
            retry_after_s: delay that the service asked for; the jitter is added to it.
        """
        bound = min(self._max_s, self._first_s * 2**self._tries)
        # The exponent is capped because 2**1024 would overflow the float.
        self._tries = min(self._tries + 1, MAX_DOUBLINGS)
        return retry_after_s + random.uniform(0, bound)
