"""Backpressure: bounded work, and immediate rejection of more work with a Retry-After estimate."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from flex_judge.reward.server.errors import RetryLaterError

RATE_WINDOW_S = 30.0
"""Length of the window for measuring the completion rate."""
DEFAULT_RETRY_AFTER_S = 5.0
"""Estimate if nothing was completed within that window."""
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1.0, 60.0


class Backpressure:
    """Counter of accepted items without a result, with a limit."""

    def __init__(
        self,
        max_pending: int,
        on_change: Callable[[int], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create a counter.

        Args:
            max_pending: maximum number of pending items.
            on_change: called with the number of pending items after each change.
            clock: monotonic clock in seconds.
        """
        self.max_pending = max_pending
        self.pending = 0
        self._on_change = on_change or (lambda _: None)
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque()
        """Pairs (whole second, number of items finished in that second), oldest first."""

    def check_capacity(self, count: int) -> None:
        """Raise RetryLaterError unless all of `count` items can be accepted."""
        excess = self.pending + count - self.max_pending
        if excess > 0:
            raise RetryLaterError(
                f"{self.pending} completions are pending and at most {self.max_pending} may be; try again later",
                self.estimate_retry_after_s(excess),
            )

    def admit(self, count: int) -> None:
        """Count new items as pending.

        Raises:
            RetryLaterError: they exceed the limit; none was counted.
        """
        self.check_capacity(count)
        self.pending += count
        self._on_change(self.pending)

    def release(self, count: int = 1) -> None:
        """Count items as finished or given up."""
        self.pending -= count
        # One entry per second bounds the length of the deque, however many items finish.
        second = math.floor(self._clock())
        if self._finished and self._finished[-1][0] == second:
            count += self._finished.pop()[1]
        self._finished.append((second, count))
        self._drop_old_entries()
        self._on_change(self.pending)

    def estimate_retry_after_s(self, needed: int) -> float:
        """Estimate the seconds until `needed` items are finished, at the rate of the last 30 seconds.

        The estimate is between 1 and 60 seconds.
        """
        self._drop_old_entries()
        if not self._finished:
            return DEFAULT_RETRY_AFTER_S
        elapsed_s = max(1.0, self._clock() - self._finished[0][0])
        rate = sum(count for _, count in self._finished) / elapsed_s
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, needed / rate))

    def _drop_old_entries(self) -> None:
        while self._finished and self._finished[0][0] < self._clock() - RATE_WINDOW_S:
            self._finished.popleft()


class BodyBudget:
    """Memory budget of all request bodies together, so that many large requests cannot exhaust the memory."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0

    @contextmanager
    def reserve_body(self) -> Iterator[Callable[[int], None]]:
        """Reserve memory for one request's body until the block ends.

        Yields:
            Function that reserves more bytes. It raises RetryLaterError if all bodies together exceed the budget.
        """
        reserved = 0

        def reserve_bytes(count: int) -> None:
            nonlocal reserved
            if self.bytes + count > self.max_bytes:
                problem = "the requests in progress are too large together; try again later"
                raise RetryLaterError(problem, DEFAULT_RETRY_AFTER_S)
            self.bytes += count
            reserved += count

        try:
            yield reserve_bytes
        finally:
            self.bytes -= reserved


class ActiveWork:
    """Counter of the work that a service must finish before it stops or sleeps."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count work until the block ends."""
        self._count += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._count -= 1
            if not self._count:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        """Wait until no work is left."""
        await self._idle.wait()


class CancelledWork:
    """Cancelled work that has not ended yet. Nobody waits for it, because a response must not be delayed."""

    def __init__(self) -> None:
        self._work: set[asyncio.Future[Any]] = set()

    def cancel(self, work: asyncio.Future[Any]) -> None:
        """Cancel work without waiting for its end."""
        work.cancel()
        self._work.add(work)
        work.add_done_callback(self._discard)

    async def wait(self) -> None:
        """Wait until all cancelled work has ended."""
        await asyncio.gather(*self._work, return_exceptions=True)

    def _discard(self, work: asyncio.Future[Any]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # marks the error as retrieved; the caller already has a timeout
