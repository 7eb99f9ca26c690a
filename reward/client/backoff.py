"""How long to wait between tries."""

from __future__ import annotations

import random

MOST_DOUBLINGS = 32


class Backoff:
    """Waits of one request: exponential, with full jitter, so that ranks that failed together do not come back together
    ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015)."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._tries = 0

    def next(self, retry_after_s: float = 0.0) -> float:
        """Seconds to wait before the next try: even over 0 to `first_s`, doubled for each try up to `longest_s`.

        Args:
            retry_after_s: what the service asked for; the jitter comes on top of it.
        """
        ceiling = min(self._longest_s, self._first_s * 2**self._tries)
        self._tries = min(self._tries + 1, MOST_DOUBLINGS)
        return retry_after_s + random.uniform(0, ceiling)


def retry_after(header: str | None) -> float:
    """The seconds of a Retry-After header; 0 without one, or for a date, which this service does not send."""
    return float(header) if header is not None and header.strip().isdecimal() else 0.0
