"""Sleep of one replica: follows the board of the service, and puts its engine to sleep or wakes it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import to_one_line
from flex_judge.reward.server.sleep import SleepOrder
from flex_judge.reward.serving.store_calls import CALL_S, WATCH_S, call_store

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

log = logging.getLogger(__name__)


class ReplicaSleep:
    """Obedience of one replica to the orders of the board. Belongs to one event loop."""

    def __init__(self, replica: str, store: Any = None) -> None:
        """Create the state of a replica that has no model yet.

        Args:
            replica: id of the replica.
            store: handle of the deployment with the board; None if the service never sleeps.
        """
        self._replica, self._store = replica, store
        self._order = SleepOrder()
        self._problem = ""
        self._task: asyncio.Task[None] | None = None

    async def wait_for_wake_order(self) -> None:
        """Wait until the service is awake: before that, the memory for a model belongs to other work."""
        while self._store is not None:
            try:
                self._order = await asyncio.wait_for(call_store(self._store.read_sleep), CALL_S)
            except Exception as e:  # noqa: BLE001 - a service without its board must start nevertheless
                log.warning("the board of the sleep is not available: %r", e)
                return
            if not self._order.level:
                return
            log.info("the service sleeps, so the replica waits before it loads its model")
            await asyncio.sleep(WATCH_S)

    async def start(self, judge: FlexJudge) -> None:
        """Follow the board until `close`."""
        if self._store is not None:
            self._task = asyncio.create_task(self._follow_board(judge))

    def close(self) -> None:
        """Stop following the board."""
        if self._task is not None:
            self._task.cancel()

    async def _follow_board(self, judge: FlexJudge) -> None:
        while True:
            call = call_store(self._store.follow_sleep, self._replica, self._order, self._problem)
            try:
                order: SleepOrder = await asyncio.wait_for(call, CALL_S)
            except Exception as e:  # noqa: BLE001 - the board may be restarting
                log.warning("the board of the sleep is not available: %r", e)
                await asyncio.sleep(WATCH_S)
                continue
            if order.number > self._order.number:
                self._problem = await self._obey(judge, order.level)
                self._order = order

    async def _obey(self, judge: FlexJudge, level: int) -> str:
        """Carry out an order; returns the problem if this is impossible."""
        started = time.monotonic()
        try:
            await (judge.sleep_async(level) if level else judge.wake_async())
        except Exception as e:  # noqa: BLE001 - reported to the gateway, whatever it is
            log.warning("the replica could not obey the order to %s: %s", "sleep" if level else "wake", e)
            return to_one_line(e)[:500]
        state = f"sleeps at level {level}" if level else "is awake"
        log.info("the replica %s after %.1f s", state, time.monotonic() - started)
        return ""
