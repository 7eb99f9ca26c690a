"""When a client retries and when it gives up: exponential backoff and a circuit breaker."""

from __future__ import annotations

import random
import time
from datetime import datetime

SILENT_ROUNDS = 1
"""Rounds of calls without any answer that a caller may take as missing rewards; the next one is an error."""
EMPTY_ROUNDS = 3
"""The same for calls that were answered with nothing but time-outs and lost engines: the service is there, so it is
given more time."""


class CircuitBreaker:
    """Remembers the calls in a row that brought no judgment. Any judgment closes it.

    Calls that were under way at the same time are one round: many single samples that fail together say no more than
    one call of many samples.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._since: datetime | None = None
        self._round_ended = 0.0
        self._rounds = 0
        self._calls = 0
        self._problem = ""

    @property
    def is_open(self) -> bool:
        return self._since is not None

    def record_success(self) -> None:
        self._since = None

    def record_failure(self, started: float, problem: str, silent: bool) -> bool:
        """Note a call that brought no judgment. Returns whether that is one too many.

        Args:
            started: `time.monotonic()` when the call began.
            problem: what went wrong last, in a few words.
            silent: whether there was no answer at all.
        """
        now = time.monotonic()
        if self._since is None:
            self._since = datetime.fromtimestamp(time.time() - (now - started)).astimezone()
            self._rounds, self._calls, self._round_ended = 0, 0, started
        self._calls += 1
        self._problem = problem
        if started >= self._round_ended:
            self._rounds += 1
            self._round_ended = now
        return self._rounds > (SILENT_ROUNDS if silent else EMPTY_ROUNDS)

    def describe_outage(self) -> str:
        """Since when, how often and why nothing was judged, and what to do, in one line."""
        since = self._since or datetime.now().astimezone()
        minutes = (datetime.now().astimezone() - since).total_seconds() / 60
        calls = f"{self._calls} calls" if self._calls != 1 else "1 call"
        return (
            f"{self._url}: the judge service has judged nothing since {since.isoformat(timespec='seconds')} "
            f"({minutes:.1f} minutes, {calls}); last problem: {self._problem}; see whether it runs and can be reached "
            f"({self._url}/healthz, its log), then go on from the last checkpoint"
        )


MAX_DOUBLINGS = 32


class Backoff:
    """Waits of one request: exponential, with full jitter, so that ranks that failed together do not come back together
    ("Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._tries = 0

    def next_delay(self, retry_after_s: float = 0.0) -> float:
        """Seconds to wait before the next try: even over 0 to `first_s`, doubled for each try up to `longest_s`.

        Args:
            retry_after_s: what the service asked for; the jitter comes on top of it.
        """
        ceiling = min(self._longest_s, self._first_s * 2**self._tries)
        self._tries = min(self._tries + 1, MAX_DOUBLINGS)
        return retry_after_s + random.uniform(0, ceiling)


def parse_retry_after(header: str | None) -> float:
    """The seconds of a Retry-After header; 0 without one, or for a date, which this service does not send."""
    return float(header) if header is not None and header.strip().isdecimal() else 0.0
