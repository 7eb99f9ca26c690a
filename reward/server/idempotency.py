"""Idempotent requests: a repeated request joins the running one or gets its stored answer, so it is judged once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from flex_judge.reward.server.errors import FieldError, RetryLaterError

KEY_HEADER = "Idempotency-Key"


@dataclass
class CachedAnswer:
    """Running or finished work of a request."""

    fingerprint: str
    task: asyncio.Task[bytes]
    finished_at: float | None = None
    """Time on the cache's clock; None while the work is running."""


class IdempotencyCache:
    """Cache of answers by idempotency key.

    The work of a request continues after its client disconnects, so that a repeated request can get the answer. Errors
    are not cached: a repeated request is tried again. A cache belongs to one event loop.
    """

    def __init__(self, retain_s: float, max_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an empty cache.

        Args:
            retain_s: seconds that a finished answer is kept.
            max_bytes: maximum size of all finished answers; the oldest are evicted first.
            clock: monotonic clock in seconds.
        """
        self._retain_s = retain_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._running: dict[str, CachedAnswer] = {}
        self._finished: OrderedDict[str, CachedAnswer] = OrderedDict()
        self._bytes = 0

    def has_key(self, key: str) -> bool:
        """Whether a request with this key is running or has an answer."""
        self._evict_answers()
        return key in self._running or key in self._finished

    async def run_once(self, key: str, fingerprint: str, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """Return the answer to the request with this key; start its work if it is new.

        Args:
            key: idempotency key of the request.
            fingerprint: hash of the request's content.
            work: computes the answer.

        Raises:
            FieldError: the key was used for a request with another fingerprint.
            RetryLaterError: `close` ended the work.
        """
        self._evict_answers()
        answer = self._running.get(key) or self._finished.get(key)
        if answer is None:
            answer = CachedAnswer(fingerprint, asyncio.create_task(work()))
            self._running[key] = answer
            answer.task.add_done_callback(lambda _: self._store_answer(key))
        elif answer.fingerprint != fingerprint:
            raise FieldError.at_field(KEY_HEADER, "was used for another request; give each request its own key")
        try:
            return await asyncio.shield(answer.task)
        except asyncio.CancelledError as e:
            if answer.task.cancelled():  # `close` cancelled the work; otherwise the caller itself was cancelled
                raise RetryLaterError("the service is shutting down; try again later") from e
            raise

    async def close(self) -> None:
        """Cancel all running work and wait for it to end."""
        tasks = [answer.task for answer in self._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _store_answer(self, key: str) -> None:
        answer = self._running.pop(key)
        # `exception()` also marks the error as retrieved: asyncio must not log it if no client waits any more.
        if answer.task.cancelled() or answer.task.exception() is not None:
            return
        answer.finished_at = self._clock()
        self._finished[key] = answer
        self._bytes += len(answer.task.result())
        self._evict_answers()

    def _evict_answers(self) -> None:
        oldest = next(iter(self._finished.values()), None)
        while oldest is not None and oldest.finished_at is not None:
            if self._bytes <= self._max_bytes and oldest.finished_at + self._retain_s > self._clock():
                return
            _, evicted = self._finished.popitem(last=False)
            self._bytes -= len(evicted.task.result())
            oldest = next(iter(self._finished.values()), None)
