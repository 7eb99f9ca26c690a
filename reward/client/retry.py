"""Retry policy of the client: problems of a try and a circuit breaker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

SILENT_ROUNDS = 1
"""Number of rounds without any response that only cost rewards; the next one raises an error."""
EMPTY_ROUNDS = 3
"""The same limit for rounds whose responses hold only timeouts and lost engines.

It is higher because the service is reachable and may recover."""


class NoResponseError(Exception):
    """No response before the deadline of a request.

    The message holds the last problem. Used only inside the client.
    """


class MediaRejectedError(Exception):
    """Media that the service cannot read or store. Used only inside the client."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__(*problems.values())
        self.problems = problems
        """Digest of each rejected medium -> reason."""


class CircuitBreaker:
    """Counter of consecutive calls without a judgment. Any judgment resets it.

    Calls that overlap in time count as one round: many concurrent single-sample calls that fail together are one
    outage, just like one call with many samples.
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
        """Whether the last completed call brought no judgment."""
        return self._since is not None

    def record_success(self) -> None:
        """Record a call with at least one judgment."""
        self._since = None

    def record_failure(self, started: float, problem: str, silent: bool) -> bool:
        """Record a call without a judgment.

        Args:
            started: `time.monotonic()` at the start of the call.
            problem: short description of the last problem.
            silent: whether there was no response at all.

        Returns:
            Whether the caller should give up now.
        """
        now = time.monotonic()
        if self._since is None:
            # The outage started with the call, not with its failure.
            self._since = datetime.fromtimestamp(time.time() - (now - started)).astimezone()
            self._rounds, self._calls, self._round_ended = 0, 0, started
        self._calls += 1
        self._problem = problem
        # A call that started before the last round ended overlaps it and belongs to the same round.
        if started >= self._round_ended:
            self._rounds += 1
            self._round_ended = now
        return self._rounds > (SILENT_ROUNDS if silent else EMPTY_ROUNDS)

    def describe_outage(self) -> str:
        """Describe the outage in one line: start, number of calls, last problem, and what to do."""
        since = self._since or datetime.now().astimezone()
        minutes = (datetime.now().astimezone() - since).total_seconds() / 60
        calls = f"{self._calls} calls" if self._calls != 1 else "1 call"
        return (
            f"{self._url}: no judgments since {since.isoformat(timespec='seconds')} ({minutes:.1f} minutes, {calls}); "
            f"last problem: {self._problem}; check that the judge service runs and is reachable ({self._url}/healthz "
            "and its log), then resume training from the last checkpoint"
        )


def get_circuit(url: str) -> CircuitBreaker:
    """Return the circuit breaker of a service: an outage affects all its clients, regardless of their settings."""
    return _circuits.setdefault(url, CircuitBreaker(url))


_circuits: dict[str, CircuitBreaker] = {}


class RecoveryWatch:
    """Shared watch of a service that is away: while requests wait to be retried, one of them probes it.

    So all of them continue within moments after its return, without each of them trying often. Belongs to one event
    loop.
    """

    def __init__(self, probe: Callable[[], Awaitable[Any]], interval_s: float = 1.0) -> None:
        """Create a watch.

        Args:
            probe: returns if the service is back, and raises NoResponseError if it is not.
            interval_s: seconds between two probes.
        """
        self._probe = probe
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._waiting = 0

    async def sleep(self, seconds: float) -> None:
        """Sleep, but no longer than until the service is back."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._wait_for_return())
        self._waiting += 1
        try:
            await asyncio.wait([self._task], timeout=seconds)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._task.cancel()

    async def _wait_for_return(self) -> None:
        while True:
            # First, because the request that starts the watch has just failed.
            await asyncio.sleep(self._interval_s)
            with suppress(NoResponseError):
                await self._probe()
                return


def compute_server_deadline(deadline: float) -> float:
    """Compute `deadline_s` for the service: the remaining time, less a margin for the response to arrive."""
    remaining_s = max(0.0, deadline - asyncio.get_running_loop().time())
    return round(remaining_s - min(5.0, 0.1 * remaining_s), 3)
