"""How much a service takes on: bounded, and what is too much is refused at once with a time to come back."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flex_judge.reward.server.errors import RetryLaterError

RATE_WINDOW_S = 30.0
"""The past in which the rate of answers is measured."""
DEFAULT_RETRY_AFTER_S = 5.0
"""When to come back, where nothing was answered in that time."""
MIN_RETRY_AFTER_S, MAX_RETRY_AFTER_S = 1.0, 60.0


class Backpressure:
    """Counts what was accepted and is not yet answered."""

    def __init__(
        self, most: int, told: Callable[[int], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        most: so much may be pending.
        told: called with the count whenever it changes.
        clock: seconds, from anywhere.
        """
        self.most = most
        self.pending = 0
        self._told = told or (lambda _: None)
        self._clock = clock
        self._finished: deque[tuple[float, int]] = deque()
        """(time in whole seconds, answers in that second), oldest first."""

    def check_capacity(self, count: int) -> None:
        """Raise NotNowError where there is no room for so many more; nothing is partly accepted."""
        over = self.pending + count - self.most
        if over > 0:
            raise RetryLaterError(
                f"{self.pending} completions are waiting and at most {self.most} may; try again later",
                self.estimate_retry_after_s(over),
            )

    def admit(self, count: int) -> None:
        """Count so many more in. Raises what `check` raises."""
        self.check_capacity(count)
        self.pending += count
        self._told(self.pending)

    def release(self, count: int = 1) -> None:
        """So many are answered, or given up."""
        self.pending -= count
        second = math.floor(self._clock())
        if self._finished and self._finished[-1][0] == second:
            count += self._finished.pop()[1]
        self._finished.append((second, count))
        self._drop_expired()
        self._told(self.pending)

    def estimate_retry_after_s(self, needed: int) -> float:
        """When there will be room for so many, at the rate of the last half minute; from 1 to 60 seconds."""
        self._drop_expired()
        if not self._finished:
            return DEFAULT_RETRY_AFTER_S
        past = max(1.0, self._clock() - self._finished[0][0])
        rate = sum(count for _, count in self._finished) / past
        return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, needed / rate))

    def _drop_expired(self) -> None:
        while self._finished and self._finished[0][0] < self._clock() - RATE_WINDOW_S:
            self._finished.popleft()


class BodyBudget:
    """Counts the bytes of all requests in hand, so that many large ones together do not fill the memory."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0

    @contextmanager
    def reserve_body(self) -> Iterator[Callable[[int], None]]:
        """One request's body: what is yielded counts bytes in, and all of them are counted out at the end.

        Raises:
            NotNowError: when called, if all bodies together would be more than allowed.
        """
        mine = 0

        def count(more: int) -> None:
            nonlocal mine
            if self.bytes + more > self.most_bytes:
                raise RetryLaterError("requests of too many bytes are in hand; try again later", DEFAULT_RETRY_AFTER_S)
            self.bytes += more
            mine += more

        try:
            yield count
        finally:
            self.bytes -= mine
