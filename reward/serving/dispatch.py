"""Getting a comparison judged by replicas that may die: another try elsewhere, and quarantine for what kills."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.metrics import ServiceMetrics

Send = Callable[[Comparison], Awaitable[Judgment]]
"""Have some replica judge a comparison. Raises ReplicaDiedError if that replica died over it."""

VICTIM_WINDOW_S = 0.3
"""How long the victims of one death are counted: their errors arrive within moments of each other."""
MAX_SHARED_DEATHS = 2
MAX_SOLE_DEATHS = 2


class ReplicaDiedError(Exception):
    """A replica died while it had a comparison in hand. Used between the dispatcher and its `Send` alone."""

    def __init__(self, replica: str) -> None:
        super().__init__(f"judge replica {replica} died")
        self.replica = replica


class Dispatcher:
    """Judges comparisons on replicas; every comparison ends with exactly one judgment.

    What was in hand on a replica that died goes to another one. Most often the machine is to blame, and the second
    replica judges it; but a comparison may itself be what kills. So one that was aboard two replicas that died is
    tried with no other such suspect beside it, and with a third death it is `engine_lost`; one that was the only thing
    aboard is already so after two. Everything else goes on.

    For one event loop.
    """

    def __init__(self, send: Send, room: int, metrics: ServiceMetrics | None = None) -> None:
        """Args:
        send: has some replica judge a comparison.
        room: comparisons that are sent at the same time; more wait here, first come, first served.
        metrics: told of judgments and retries.
        """
        self._send = send
        self._room = asyncio.Semaphore(room)
        self._suspects = asyncio.Lock()
        self._metrics = metrics or ServiceMetrics()
        self._victims: Counter[str] = Counter()

    async def judge(self, comparison: Comparison) -> Judgment:
        """Have a comparison judged. Failures become a status, never a score.

        Raises:
            UsageError: it cannot be judged as it is, see `FlexJudge.ajudge`.
        """
        start = time.monotonic()
        judgment = await self._judge_with_retries(comparison)
        self._metrics.record_judgment(judgment, time.monotonic() - start)
        return judgment

    async def _judge_with_retries(self, comparison: Comparison) -> Judgment:
        deaths = alone = 0
        while deaths <= MAX_SHARED_DEATHS and alone < MAX_SOLE_DEATHS:
            if deaths:
                self._metrics.record_retry()
            try:
                if deaths < MAX_SHARED_DEATHS:
                    return await self._send_in_slot(comparison)
                async with self._suspects:
                    return await self._send_in_slot(comparison)
            except ReplicaDiedError as death:
                deaths += 1
                alone += await self._is_sole_victim(death.replica)
        detail = f"{deaths} judge replicas died while they had this in hand"
        return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, detail)

    async def _send_in_slot(self, comparison: Comparison) -> Judgment:
        async with self._room:
            return await self._send(comparison)

    async def _is_sole_victim(self, replica: str) -> bool:
        """Whether one comparison alone was aboard a replica that died. Each of its victims calls this once."""
        self._victims[replica] += 1
        await asyncio.sleep(VICTIM_WINDOW_S)
        victims = self._victims[replica]
        # Forgotten when the last one has read it; replicas are never named twice.
        asyncio.get_running_loop().call_later(VICTIM_WINDOW_S, self._victims.pop, replica, None)
        return victims == 1
