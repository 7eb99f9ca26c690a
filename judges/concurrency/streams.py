"""Work on many things side by side, results as they are ready."""

from __future__ import annotations

import asyncio
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
