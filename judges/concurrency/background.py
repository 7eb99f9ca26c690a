"""One event loop in a thread of this process: callers with a loop of their own, and those without any, share the
connections and limits that live in it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Background:
    """The loop of this process, once somebody has asked for it."""

    def __init__(self, inherited: _Background | None = None) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        # A forked process gets a loop without its thread. It is kept, not closed: what it watches is the parent's too.
        self._inherited = inherited

    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="judge-client", daemon=True).start()
            return self._loop


_background = _Background()


def _after_fork() -> None:
    global _background
    _background = _Background(_background)


os.register_at_fork(after_in_child=_after_fork)


def waited(work: Coroutine[Any, Any, T]) -> T:
    """Have the background loop do the work and wait for it; also from within a running event loop, which stands still
    for as long."""
    future = asyncio.run_coroutine_threadsafe(work, _background.loop())
    try:
        return future.result()
    finally:
        future.cancel()  # after Ctrl-C nobody waits any more; has no effect on work that is done


async def awaited(work: Coroutine[Any, Any, T]) -> T:
    """Have the background loop do the work, and await it. Who cancels this cancels the work."""
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, _background.loop()))
