"""Sleep of a service's replicas: a board with the order that all of them must obey, and the gateway's side of it.

The board is part of the deployment `KeptWork`. If it is lost, the replicas tell the next one which order they obey.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from flex_judge.judges.errors import SleepError
from flex_judge.reward.server.sleep import SleepOrder
from flex_judge.reward.serving.store_calls import LOAD_S, POLL_S, SILENT_S, WATCH_S, BoardClient, News


@dataclass(frozen=True)
class _SleepReport:
    """Last message of a replica."""

    number: int
    """Number of the order that it has carried out."""
    problem: str
    """Why it could not; empty if it could."""
    received_at: float


class SleepBoard:
    """Last order of a service, and the reports of its replicas."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Create a board whose order is to be awake.

        Args:
            clock: monotonic clock in seconds.
        """
        self._sleep_clock = clock
        self._order = SleepOrder()
        self._sleep_reports: dict[str, _SleepReport] = {}
        self._sleep_news = News()

    async def follow_sleep(self, replica: str, order: SleepOrder, problem: str) -> SleepOrder:
        """Take the report of a replica, and return the next order, or after WATCH_S the same one.

        Args:
            replica: id of the replica.
            order: the order that it has carried out.
            problem: why it could not; empty if it could.
        """
        earlier = self._sleep_reports.get(replica)
        self._sleep_reports[replica] = _SleepReport(order.number, problem, self._sleep_clock())
        if order.number > self._order.number:  # this board is younger than the order
            self._order = order
        if earlier is None or earlier.number != order.number:
            self._sleep_news.announce()
        if order.number == self._order.number:
            await self._wait_for_order(order.number)
        return self._order

    async def read_sleep(self) -> SleepOrder:
        """Return the last order."""
        return self._order

    async def order_sleep(self, level: int) -> SleepOrder:
        """Give a new order to all replicas."""
        # Numbers come from the clock, so that a board that lost its order gives no number twice.
        self._order = SleepOrder(max(self._order.number + 1, time.time_ns()), level)
        self._sleep_news.announce()
        return self._order

    async def collect_sleep_reports(self, number: int) -> tuple[dict[str, str], list[str]]:
        """Return the problem of each living replica that has obeyed an order, and the replicas that have not yet."""
        oldest = self._sleep_clock() - SILENT_S
        self._sleep_reports = {name: r for name, r in self._sleep_reports.items() if r.received_at >= oldest}
        problems = {name: r.problem for name, r in self._sleep_reports.items() if r.number >= number}
        return problems, sorted(self._sleep_reports.keys() - problems.keys())

    async def _wait_for_order(self, number: int) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCH_S):
                while self._order.number == number:
                    await self._sleep_news.wait()


class BoardSleepControl(BoardClient):
    """`SleepControl` of a gateway, which talks to the replicas through the board."""

    board = "the sleep"
    unknown = "whether the judge sleeps"

    async def read_order(self) -> SleepOrder:
        """Return the last order, see `SleepControl.read_order`."""
        order: SleepOrder = await self._ask(self._store.read_sleep)
        return order

    async def apply_level(self, level: int, previous: int) -> None:
        """Have every replica sleep or wake, see `SleepControl.apply_level`."""
        try:
            await self._give_order(level)
        except SleepError:
            if previous != level:
                with suppress(SleepError):
                    await self._give_order(previous)
            raise

    async def _give_order(self, level: int) -> None:
        order: SleepOrder = await self._ask(self._store.order_sleep, level)
        state = "sleep" if level else "are awake"
        deadline = time.monotonic() + LOAD_S
        while True:
            problems, missing = await self._ask(self._store.collect_sleep_reports, order.number)
            failures = {replica: problem for replica, problem in problems.items() if problem}
            if failures:
                replica, problem = next(iter(failures.items()))
                raise SleepError(f"not all replicas {state}; replica {replica}: {problem}")
            # Replicas that start wait with their model until they are needed. An awake service has at least one.
            if not missing and len(problems) >= max(await self._count_replicas(), level == 0):
                return
            if time.monotonic() > deadline:
                waiting = ", ".join(missing) or "some that do not answer"
                raise SleepError(f"not all replicas {state} after {LOAD_S:g} s: {waiting}")
            await asyncio.sleep(POLL_S)
