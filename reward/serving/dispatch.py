"""Dispatch comparisons to replicas that may die: retry on another replica, and quarantine comparisons that kill."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.metrics import ServiceMetrics

SendFunction = Callable[[Comparison], Awaitable[Judgment]]
"""Function that has some replica judge a comparison. Raises ReplicaDiedError if the replica died meanwhile."""
FindFunction = Callable[[Comparison, float], Awaitable[Judgment | None]]
"""Function that finds the judgment of a comparison that was recorded within the last seconds; None without one."""

VICTIM_WINDOW_S = 0.3
"""Seconds for counting the victims of one death; their errors arrive within moments of each other."""
MAX_ISOLATED = 8
"""Number of victims, of all deaths at about the same time, up to which they are tried again one at a time. More of them
are sent again together, because that would take long after the usual cause, a machine that fails."""
MAX_DEATHS = 3
"""Deaths of replicas after which a comparison is not tried again, however many other suspects died with it."""
log = logging.getLogger(__name__)


class ReplicaDiedError(Exception):
    """A replica died while it had a comparison. Used only between the dispatcher and its `SendFunction`."""

    def __init__(self, replica: str, reason: str = "") -> None:
        super().__init__(f"judge replica {replica} died: {reason}" if reason else f"judge replica {replica} died")
        self.replica = replica


@dataclass
class _Death:
    """Death of a replica."""

    victims: int = 0
    """Number of comparisons that the replica had."""
    suspects: int = 0
    """Number of those whose replica had died before."""


class Dispatcher:
    """Dispatcher of comparisons to replicas; every comparison gets exactly one judgment.

    The comparisons of a dead replica are sent to another one. Usually the machine is to blame, and the second replica
    judges them. But a comparison may itself kill its replica, so all of them are suspects from now on. A few suspects
    are tried again one at a time; the next death then shows which one is to blame, and that one gets the status
    `engine_lost`. Many suspects are tried again together first, and one at a time if their replica dies as well.
    Comparisons that had no part in an earlier death are not blamed for the death of a replica with a suspect.

    A dispatcher belongs to one event loop.
    """

    def __init__(
        self,
        send: SendFunction,
        max_requests: int,
        metrics: ServiceMetrics | None = None,
        find_judgment: FindFunction | None = None,
    ) -> None:
        """Create a dispatcher.

        Args:
            send: has some replica judge a comparison.
            max_requests: maximum number of concurrent comparisons; the others wait in order of arrival.
            metrics: receives judgments and retries.
            find_judgment: finds what a replica judged just before it died.
        """
        self._send = send
        self._find_judgment = find_judgment
        self._slots = asyncio.Semaphore(max_requests)
        self._isolation = asyncio.Lock()
        self._metrics = metrics or ServiceMetrics()
        self._deaths: dict[str, _Death] = {}

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
        deaths, is_isolated = 0, False
        while True:
            sent_at = time.monotonic()
            try:
                if not is_isolated:
                    return await self._send_in_slot(comparison)
                async with self._isolation:
                    # Without a slot, for which it would wait behind all others; only one is sent at a time.
                    return await self._send(comparison)
            except ReplicaDiedError as error:
                death = await self._count_victims(error, is_suspect=deaths > 0)
            num_victims = sum(recent.victims for recent in self._deaths.values())
            if self._find_judgment is not None:
                judgment = await self._find_judgment(comparison, time.monotonic() - sent_at)
                if judgment is not None:
                    return judgment
            if deaths or not death.suspects:
                deaths += 1
                if deaths == MAX_DEATHS or (is_isolated and death.suspects == 1):
                    return _give_up(comparison, deaths)
                is_isolated = deaths > 1 or num_victims <= MAX_ISOLATED
            self._metrics.record_retry()

    async def _send_in_slot(self, comparison: Comparison) -> Judgment:
        with self._metrics.track_queue():
            await self._slots.acquire()
        try:
            return await self._send(comparison)
        finally:
            self._slots.release()

    async def _count_victims(self, error: ReplicaDiedError, is_suspect: bool) -> _Death:
        """Count the comparisons that a dead replica had. Each of its victims calls this once."""
        death = self._deaths.get(error.replica)
        if death is None:
            log.warning("%s; its comparisons are sent to another one", error)
            death = self._deaths[error.replica] = _Death()
            # Late enough for all victims to find it; replica ids are never reused.
            asyncio.get_running_loop().call_later(2 * VICTIM_WINDOW_S, self._deaths.pop, error.replica)
        death.victims += 1
        death.suspects += is_suspect
        await asyncio.sleep(VICTIM_WINDOW_S)
        return death


def _give_up(comparison: Comparison, deaths: int) -> Judgment:
    log.error("comparison %r is not tried again, because %d replicas died with it", comparison.id, deaths)
    detail = (
        f"{deaths} judge replicas died while they judged this comparison, so it is not tried again; shorten it or "
        "leave out media, and see the service's log for the reason"
    )
    return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, detail)
