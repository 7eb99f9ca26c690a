"""Dispatch comparisons to replicas that may die: retry on another replica, and quarantine comparisons that kill."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.metrics import ServiceMetrics

SendFunction = Callable[[Comparison], Awaitable[Judgment]]
"""Function that has some replica judge a comparison. Raises ReplicaDiedError if the replica died meanwhile."""

VICTIM_WINDOW_S = 0.3
"""Seconds for counting the victims of one death; their errors arrive within moments of each other."""
MAX_SHARED_DEATHS = 2
"""Deaths after which a comparison becomes a suspect and is tried alone; one more quarantines it."""
MAX_SOLE_DEATHS = 2
"""Deaths with no other comparison on the replica after which a comparison is quarantined."""
log = logging.getLogger(__name__)


class ReplicaDiedError(Exception):
    """A replica died while it had a comparison. Used only between the dispatcher and its `SendFunction`."""

    def __init__(self, replica: str) -> None:
        super().__init__(f"judge replica {replica} died")
        self.replica = replica


class Dispatcher:
    """Dispatcher of comparisons to replicas; every comparison gets exactly one judgment.

    The comparisons of a dead replica are sent to another one. Usually the machine is to blame, and the second replica
    judges them. But a comparison may itself kill its replica. So a comparison whose replicas died twice is a suspect
    and is tried without any other suspect in flight; after a third death it gets the status `engine_lost`. If it was
    the only comparison on its replica, two deaths suffice. All other comparisons continue normally.

    A dispatcher belongs to one event loop.
    """

    def __init__(self, send: SendFunction, max_requests: int, metrics: ServiceMetrics | None = None) -> None:
        """Create a dispatcher.

        Args:
            send: has some replica judge a comparison.
            max_requests: maximum number of concurrent comparisons; the others wait in order of arrival.
            metrics: receives judgments and retries.
        """
        self._send = send
        self._slots = asyncio.Semaphore(max_requests)
        self._suspect_lock = asyncio.Lock()
        self._metrics = metrics or ServiceMetrics()
        self._victims: Counter[str] = Counter()

    async def judge(self, comparison: Comparison) -> Judgment:
        """Judge one comparison. Failures become a status, never a score.

        Raises:
            UsageError: its rubric does not exist or does not fit, see `FlexJudge.ajudge`.
        """
        start = time.monotonic()
        with self._metrics.track_comparison():
            judgment = await self._judge_with_retries(comparison)
        self._metrics.record_judgment(judgment, time.monotonic() - start)
        return judgment

    async def _judge_with_retries(self, comparison: Comparison) -> Judgment:
        deaths = sole_deaths = 0
        while deaths <= MAX_SHARED_DEATHS and sole_deaths < MAX_SOLE_DEATHS:
            if deaths:
                self._metrics.record_retry()
            try:
                if deaths < MAX_SHARED_DEATHS:
                    return await self._send_in_slot(comparison)
                async with self._suspect_lock:
                    return await self._send_in_slot(comparison)
            except ReplicaDiedError as death:
                deaths += 1
                sole_deaths += await self._is_sole_victim(death.replica)
        detail = f"{deaths} judge replicas died while they judged this comparison"
        return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, detail)

    async def _send_in_slot(self, comparison: Comparison) -> Judgment:
        with self._metrics.track_queue():
            await self._slots.acquire()
        try:
            return await self._send(comparison)
        finally:
            self._slots.release()

    async def _is_sole_victim(self, replica: str) -> bool:
        """Whether a dead replica had one comparison only. Each of its victims calls this once."""
        self._victims[replica] += 1
        if self._victims[replica] == 1:
            log.warning("replica %s died; its comparisons are sent to another one", replica)
        await asyncio.sleep(VICTIM_WINDOW_S)
        victims = self._victims[replica]
        # Deleted after the last victim has read the count; replica ids are never reused.
        asyncio.get_running_loop().call_later(VICTIM_WINDOW_S, self._victims.pop, replica, None)
        return victims == 1
