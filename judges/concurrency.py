"""Concurrency helpers: run coroutines with a limit, limit engine requests, run an event loop in the background."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from flex_judge.judges.errors import JudgeError, LedgerError, RenderError, UsageError

T = TypeVar("T")
R = TypeVar("R")


async def run_concurrently(
    items: Iterable[T], work: Callable[[T], Coroutine[Any, Any, R]], concurrency: int
) -> AsyncGenerator[tuple[int, R], None]:
    """Process items concurrently and yield results as they complete.

    An item that is invalid in itself (UsageError, RenderError) does not stop the others: the first such error is raised
    after all other items are done. Any other error cancels the work in progress.

    Args:
        items: items to process; consumed only as fast as they are processed, so the iterable may be endless.
        work: coroutine function that processes one item.
        concurrency: maximum number of items in progress.

    Yields:
        Index of an item and its result.

    Raises:
        UsageError: concurrency is below 1, or an item is invalid.
        RenderError: an item cannot be rendered.
    """
    if concurrency < 1:
        raise UsageError(f"concurrency must be at least 1, not {concurrency}")
    pending = enumerate(items)
    running: dict[asyncio.Task[R], int] = {}
    first_error: JudgeError | None = None
    try:
        while True:
            for index, item in islice(pending, concurrency - len(running)):
                running[asyncio.create_task(work(item))] = index
            if not running:
                break
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                # A LedgerError is a UsageError, but it concerns every item.
                if isinstance(error, UsageError | RenderError) and not isinstance(error, LedgerError):
                    first_error = first_error or error
                    del running[task]
                else:
                    yield running.pop(task), task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if first_error is not None:
        raise first_error


def iterate_in_new_loop(source: AsyncGenerator[T, None], total: int | None, progress: bool) -> Iterator[T]:
    """Iterate over an asynchronous generator in an event loop of its own.

    Args:
        source: generator to iterate over.
        total: number of items; None if unknown.
        progress: show a progress bar.
    """

    async def next_item() -> T | None:
        return await anext(source, None)

    if _is_in_event_loop():
        raise UsageError("judge and stream are for use outside of an event loop; inside one, use ajudge and astream")
    with asyncio.Runner() as runner, _show_progress_bar(total, progress) as advance:
        try:
            while (item := runner.run(next_item())) is not None:
                advance()
                yield item
        finally:
            runner.run(source.aclose())  # Cancels the work in progress if the caller stops early.


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _show_progress_bar(total: int | None, enabled: bool) -> Iterator[Callable[[], None]]:
    """Show a progress bar on standard error if enabled; yields the function that advances it."""
    if not enabled:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # rich prints other output above the bar, on its own console. Output that goes to a file must not be redirected.
    console, redirect_stdout = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, redirect_stdout=redirect_stdout) as progress:
        task = progress.add_task("judging", total=total)
        yield lambda: progress.advance(task)


class EngineSemaphore:
    """FIFO semaphore that limits concurrent requests to the engine's batch size. Belongs to one event loop.

    A caller acquires several slots at once. Strict first-come-first-served order keeps large requests from starving.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free_slots = capacity
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, slots: int) -> int:
        """Wait for a number of slots, at most the capacity.

        Returns:
            Number of acquired slots, to be passed to `release`.
        """
        slots = min(slots, self.capacity)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((slots, turn))
        self._wake_waiters()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake_waiters()  # This waiter may have been the only one that blocked those behind it.
            else:
                self.release(slots)  # The slots were granted just before the cancellation.
            raise
        return slots

    def release(self, slots: int) -> None:
        """Return slots to the semaphore."""
        self._free_slots += slots
        self._wake_waiters()

    def _wake_waiters(self) -> None:
        while self._waiters:
            slots, turn = self._waiters[0]
            if not turn.cancelled() and slots > self._free_slots:
                return
            self._waiters.popleft()
            if not turn.cancelled():
                self._free_slots -= slots
                turn.set_result(None)


async def gather_all(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently and return their results in order.

    The first error cancels all others and is raised as itself, not as an ExceptionGroup.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except ExceptionGroup as e:
        error = e.exceptions[0]
    else:
        return [task.result() for task in tasks]
    # Raised outside of the except block, so that the error is not chained to the group.
    raise error


class _BackgroundLoop:
    """Event loop in a daemon thread, started on first use."""

    def __init__(self, inherited: _BackgroundLoop | None = None) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A forked process inherits the loop without its thread. The loop is kept, not closed: closing it would
        # unregister file descriptors that the parent still watches.
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


def run_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background loop and block until it is done.

    Can be called inside a running event loop, which is blocked meanwhile.
    """
    future = asyncio.run_coroutine_threadsafe(coroutine, _background.get_or_start())
    try:
        return future.result()
    finally:
        future.cancel()  # Ends the work after Ctrl-C; has no effect on a coroutine that is done.


async def await_in_background(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in the background loop and await it; cancelling the caller cancels the coroutine."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, _background.get_or_start()))
