"""Concurrency helpers: run coroutines side by side, limit them by a semaphore, run an event loop in the background."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, TypeVar

from flex_judge.judges.errors import JudgeError, LedgerError, RenderError, UsageError

T = TypeVar("T")
R = TypeVar("R")


async def run_concurrently(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, R]], at_a_time: int
) -> AsyncGenerator[tuple[int, R], None]:
    """Work on items, so many at a time; yields results as they are ready, with the numbers of their items.

    Items are taken as there is room for them, so `items` may be endless. One that is wrong in itself (UsageError,
    RenderError) does not hold up the others: the first such error is raised after them. Any other error ends the work.

    Args:
        items: what is worked on.
        work: what is done with each.
        at_a_time: items under way at the same time.
    """
    if at_a_time < 1:
        raise UsageError(f"concurrency must be at least 1, not {at_a_time}")
    waiting = enumerate(items)
    running: dict[asyncio.Task[R], int] = {}
    wrong: JudgeError | None = None
    try:
        while True:
            for number, item in islice(waiting, at_a_time - len(running)):
                running[asyncio.create_task(work(item))] = number
            if not running:
                break
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, UsageError | RenderError) and not isinstance(error, LedgerError):
                    wrong = wrong or error
                    del running[task]
                else:
                    yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if wrong is not None:
        raise wrong


class EngineSemaphore:
    """So many slots; first come, first served. For one event loop."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = capacity
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, wanted: int) -> int:
        """Wait for so many slots, or for all where more are wanted than there are.

        Returns:
            How many were taken, to be given back.
        """
        wanted = min(wanted, self.capacity)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._wake_waiters()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake_waiters()  # those behind it may have waited for its sake alone
            else:
                self.release(wanted)  # it was served and cancelled at once
            raise
        return wanted

    def release(self, taken: int) -> None:
        """Give slots back."""
        self._free += taken
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= wanted
                turn.set_result(None)


async def gather_all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results of some work, in order. The first error ends what else is under way and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(one) for one in work]
    except ExceptionGroup as e:
        error = e.exceptions[0]
    else:
        return [task.result() for task in running]
    raise error


class _BackgroundLoop:
    """The loop of this process, once somebody has asked for it."""

    def __init__(self, inherited: _BackgroundLoop | None = None) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A forked process gets a loop without its thread. It is kept, not closed: what it watches is the parent's too.
        self._inherited = inherited

    def get_or_start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="judge-client", daemon=True).start()
            return self._loop


_background = _BackgroundLoop()


def _reset_background_loop() -> None:
    global _background
    _background = _BackgroundLoop(_background)


os.register_at_fork(after_in_child=_reset_background_loop)


def run_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Have the background loop do the work and wait for it; also from within a running event loop, which stands still
    for as long."""
    future = asyncio.run_coroutine_threadsafe(work, _background.get_or_start())
    try:
        return future.result()
    finally:
        future.cancel()  # after Ctrl-C nobody waits any more; has no effect on work that is done


async def await_in_background(work: Coroutine[Any, Any, T]) -> T:
    """Have the background loop do the work, and await it. Who cancels this cancels the work."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _background.get_or_start()))
