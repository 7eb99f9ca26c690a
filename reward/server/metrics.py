"""Interface for the metrics of a running service. Names and units are those that Prometheus shows."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from flex_judge.judges.judgments import Judgment, Status

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
"""Content type of the text format of Prometheus."""


class ServiceMetrics:
    """Receiver of all events of a service. This base class discards them."""

    def set_model(self, model: str) -> None:
        """Set the public name of the judge's model, which changes when its adapter is replaced."""

    def set_pending(self, count: int) -> None:
        """Set the number of completions and comparisons that are accepted and have no result yet."""

    def set_health(self, ready: bool, replicas: int) -> None:
        """Set whether the service accepts requests, and its number of running replicas."""

    def set_sleep_level(self, level: int) -> None:
        """Set the level at which the judge sleeps; 0 while it is awake."""

    def set_memory(self, body_bytes: int, media_bytes: int) -> None:
        """Set the size of all requests in progress, and of the uploaded media."""

    def set_waiting_groups(self, count: int) -> None:
        """Set the number of groups that wait for missing members."""

    def record_group(self, seconds: float, complete: bool) -> None:
        """Record the end of a group's wait: its duration, and whether all members arrived."""

    def record_request(self, route: str, status: int, seconds: float) -> None:
        """Record an HTTP request: its route (the pattern, not the path), response status, and duration."""

    def record_judgment(self, judgment: Judgment, seconds: float) -> None:
        """Record a judgment and its duration."""

    def record_invalid_row(self, status: Status) -> None:
        """Record a row that got a status before any judge saw it."""

    def record_retry(self) -> None:
        """Record a comparison that is sent again because its replica died."""

    def track_comparison(self) -> AbstractContextManager[None]:
        """Track a comparison, from the dispatcher to its judgment, until the block ends."""
        return nullcontext()

    def track_queue(self) -> AbstractContextManager[None]:
        """Track a comparison that waits for a free place on a replica until the block ends."""
        return nullcontext()

    def render(self, accept: str = "") -> tuple[bytes, str]:  # noqa: ARG002 - an implementation reads it
        """Render all metrics for a scrape.

        Args:
            accept: the Accept header of the request, which selects the format.

        Returns:
            The body and its content type.
        """
        return b"", TEXT_FORMAT


class StartTimes:
    """Start times of work in progress."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._times: OrderedDict[object, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    @contextmanager
    def track(self, on_end: Callable[[float], None] = lambda _: None) -> Iterator[None]:
        """Track work until the block ends.

        Args:
            on_end: called with its duration in seconds.
        """
        key, start = object(), self._clock()
        self._times[key] = start
        try:
            yield
        finally:
            del self._times[key]
            on_end(self._clock() - start)

    def get_oldest_age_s(self) -> float:
        """Return the age of the oldest work in seconds; 0 without work."""
        return self._clock() - next(iter(self._times.values())) if self._times else 0.0
