"""Sleep of a service: its replicas free their memory for a training step, and refuse requests until they wake.

Free of any web framework and of Ray.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from flex_judge.judges.errors import SleepError
from flex_judge.reward.server.errors import RetryLaterError

ASLEEP_RETRY_S = 2.0
"""Retry-After while the judge sleeps. Only a trainer knows when it wakes, so clients ask again soon."""
BUSY_RETRY_S = 5.0
"""Retry-After if accepted requests take too long for the judge to fall asleep."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SleepOrder:
    """Order to all replicas."""

    number: int = 0
    """Number of the order, which grows; 0 is the state at the start."""
    level: int = 0
    """Level of the sleep; 0 to be awake."""


class SleepControl(Protocol):
    """Connection to the replicas, which sleep and wake."""

    async def read_order(self) -> SleepOrder:
        """Return the last order, also if an earlier gateway gave it.

        Raises:
            RetryLaterError: it cannot be found out now.
        """
        ...

    async def apply_level(self, level: int, previous: int) -> None:
        """Have every replica sleep at a level, or wake (0), and wait for all of them.

        Args:
            level: the new level.
            previous: level that all return to if one of them fails.

        Raises:
            SleepError: a replica failed.
            RetryLaterError: the replicas cannot be reached.
        """
        ...


class SleepSwitch:
    """State of a service's sleep. Belongs to one event loop."""

    def __init__(
        self, control: SleepControl | None = None, wakes_on_request: bool = False, max_wait_s: float = 600.0
    ) -> None:
        """Create a switch.

        Args:
            control: connection to the replicas; None allows no sleep.
            wakes_on_request: whether a request for judgments wakes the judge, instead of being refused.
            max_wait_s: maximum time to wait for accepted requests before the judge sleeps.
        """
        self._control = control
        self._wakes_on_request, self._max_wait_s = wakes_on_request, max_wait_s
        self._level: int | None = 0 if control is None else None
        self._falls_asleep = False
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[int]] = set()
        self._wait_until_idle: Callable[[], Awaitable[None]] = _return_at_once
        self._pause_adapters: Callable[[], AbstractAsyncContextManager[Any]] = nullcontext

    def connect(
        self,
        wait_until_idle: Callable[[], Awaitable[None]],
        pause_adapters: Callable[[], AbstractAsyncContextManager[Any]],
    ) -> None:
        """Connect the switch with its gateway.

        Args:
            wait_until_idle: returns when all accepted requests are answered.
            pause_adapters: context in which the judge's adapter does not change.
        """
        self._wait_until_idle, self._pause_adapters = wait_until_idle, pause_adapters

    async def read_level(self) -> int:
        """Return the level for a report: 0 if the judge is awake, or if it cannot be found out."""
        if self._level is None and self._control is not None:
            try:
                return (await self._control.read_order()).level
            except RetryLaterError:
                return 0
        return self._level or 0

    def check_awake(self) -> None:
        """Raise RetryLaterError if the judge sleeps, or is about to."""
        if self._level != 0 or self._falls_asleep:
            problem = "the judge sleeps, so that its memory is free for other work; wake it with POST /v1/wake"
            raise RetryLaterError(problem, ASLEEP_RETRY_S)

    async def find_level(self) -> None:
        """Find out the state after a restart of the gateway.

        Raises:
            RetryLaterError: it cannot be found out now.
        """
        if self._level is None:
            async with self._lock:
                await self._load_level()

    async def prepare_request(self) -> None:
        """Find out the state, and wake the judge if requests may do so.

        Raises:
            RetryLaterError: the state cannot be found out now, or a replica cannot wake yet.
        """
        try:
            await self.find_level()
            if self._wakes_on_request and (self._level or self._falls_asleep):
                await self.wake()
        except SleepError as e:  # other work may still use the memory, and the request is not at fault
            raise RetryLaterError(f"the judge could not be woken for this request: {e}", BUSY_RETRY_S) from e

    async def sleep(self, level: int) -> int:
        """Answer all accepted requests, then have every replica sleep. Completes even if the caller is cancelled.

        Args:
            level: 1 keeps the weights in the machines' memory, 2 discards them.

        Returns:
            The level at which the judge sleeps: the earlier one if it slept already.

        Raises:
            SleepError: the service allows no sleep, or a replica cannot sleep; all are awake then.
            RetryLaterError: accepted requests take too long, or the replicas cannot be reached.
        """
        return await self._run_shielded(self._fall_asleep(self._require_control(), level))

    async def wake(self) -> int:
        """Have every replica wake; nothing changes if they are awake. Completes even if the caller is cancelled.

        Returns:
            The level of an awake judge, 0.

        Raises:
            SleepError: the service allows no sleep, or a replica cannot wake; all sleep then.
            RetryLaterError: the replicas cannot be reached.
        """
        return await self._run_shielded(self._wake_up(self._require_control()))

    async def _fall_asleep(self, control: SleepControl, level: int) -> int:
        async with self._lock:
            current = await self._load_level()
            if current:
                return current
            async with self._pause_adapters():
                self._falls_asleep = True
                try:
                    await self._drain()
                    await self._apply_level(control, level, 0)
                finally:
                    self._falls_asleep = False
            log.info("the judge sleeps at level %d", level)
            return level

    async def _wake_up(self, control: SleepControl) -> int:
        async with self._lock:
            current = await self._load_level()
            if current:
                await self._apply_level(control, 0, current)
                log.info("the judge is awake")
            return 0

    async def _drain(self) -> None:
        try:
            await asyncio.wait_for(self._wait_until_idle(), self._max_wait_s)
        except TimeoutError as e:
            raise RetryLaterError("accepted requests are still in progress", BUSY_RETRY_S) from e

    async def _apply_level(self, control: SleepControl, level: int, previous: int) -> None:
        self._level = None  # unknown if this fails
        await control.apply_level(level, previous)
        self._level = level

    async def _load_level(self) -> int:
        if self._level is None and self._control is not None:
            order = await self._control.read_order()
            # An earlier gateway may have died before all replicas had obeyed.
            if order.number:
                await self._apply_level(self._control, order.level, order.level)
            self._level = order.level
        return self._level or 0

    def _require_control(self) -> SleepControl:
        if self._control is None:
            raise SleepError("this service does not let clients put its judge to sleep; start it with --allow-sleep")
        return self._control

    async def _run_shielded(self, work: Coroutine[Any, Any, int]) -> int:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._discard_task)
        return await asyncio.shield(task)

    def _discard_task(self, task: asyncio.Task[int]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:  # also marks it as retrieved
            log.warning("the judge did not fall asleep or wake: %s", task.exception())


async def _return_at_once() -> None:
    pass
