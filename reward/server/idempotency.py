"""Idempotent requests: a repeated request joins the running one or gets its stored answer, so it is judged once."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from flex_judge.reward.server.errors import FieldError, RetryLaterError

KEY_HEADER = "Idempotency-Key"
MAX_ANSWERS_BYTES = 256 << 20
"""Maximum size of all answers that are kept for repeated requests."""


@dataclass(frozen=True)
class KeptAnswer:
    """Answer to a request with an idempotency key."""

    fingerprint: str
    """Hash of the request's content."""
    content: bytes


class AnswerArchive:
    """Place where answers outlive the gateway. This base class keeps nothing."""

    async def find_answer(self, key: str) -> KeptAnswer | None:  # noqa: ARG002
        """Return the answer of an earlier gateway to the request with an idempotency key."""
        return None

    async def keep_answer(self, key: str, answer: KeptAnswer) -> None:
        """Keep an answer for later gateways."""


@dataclass
class CachedAnswer:
    """Running or finished work of a request."""

    fingerprint: str
    task: asyncio.Task[bytes]
    finished_at: float | None = None
    """Time on the cache's clock; None while the work is running."""
    waiting: int = 0
    """Number of clients that wait for the work."""
    cancellation: asyncio.TimerHandle | None = None
    """Timer that cancels the work; runs only while no client waits for it."""


class IdempotencyCache:
    """Cache of answers by idempotency key.

    The work of a request continues for some seconds after its client disconnects, so that a repeated request can get
    the answer; then it is cancelled. Errors are not cached: a repeated request is tried again. A cache belongs to one
    event loop.
    """

    def __init__(
        self,
        retain_s: float,
        max_bytes: int = MAX_ANSWERS_BYTES,
        grace_s: float = math.inf,
        archive: AnswerArchive | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Create an empty cache.

        Args:
            retain_s: seconds that a finished answer is kept.
            max_bytes: maximum size of all finished answers; the oldest are evicted first.
            grace_s: seconds that work continues while no client waits for it.
            archive: keeps answers beyond the life of this process.
            clock: monotonic clock in seconds.
        """
        self._grace_s = grace_s
        self._archive = archive or AnswerArchive()
        self._retain_s = retain_s
        self._max_bytes = max_bytes
        self._clock = clock
        self._running: dict[str, CachedAnswer] = {}
        self._cancelled: set[asyncio.Task[bytes]] = set()
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
            answer = CachedAnswer(fingerprint, asyncio.create_task(self._find_or_compute(key, fingerprint, work)))
            self._running[key] = answer
            answer.task.add_done_callback(partial(self._store_answer, key))
        elif answer.fingerprint != fingerprint:
            raise _build_reuse_error()
        answer.waiting += 1
        if answer.cancellation is not None:
            answer.cancellation.cancel()
        try:
            return await asyncio.shield(answer.task)
        except asyncio.CancelledError as e:
            if answer.task.cancelled():  # `close` cancelled the work; otherwise the caller itself was cancelled
                raise RetryLaterError("the service is shutting down; try again later") from e
            raise
        finally:
            answer.waiting -= 1
            if not answer.waiting and not answer.task.done() and self._grace_s < math.inf:
                loop = asyncio.get_running_loop()
                answer.cancellation = loop.call_later(self._grace_s, self._cancel_work, key, answer)

    async def _find_or_compute(
        self, key: str, fingerprint: str, work: Callable[[], Coroutine[Any, Any, bytes]]
    ) -> bytes:
        kept = await self._archive.find_answer(key)
        if kept is None:
            content = await work()
            await self._archive.keep_answer(key, KeptAnswer(fingerprint, content))
            return content
        if kept.fingerprint != fingerprint:
            raise _build_reuse_error()
        return kept.content

    async def close(self) -> None:
        """Cancel all running work and wait for it to end."""
        for key, answer in list(self._running.items()):
            self._cancel_work(key, answer)
        await asyncio.gather(*self._cancelled, return_exceptions=True)

    def _cancel_work(self, key: str, answer: CachedAnswer) -> None:
        """Cancel running work. A request that repeats it from now on starts anew."""
        if answer.cancellation is not None:
            answer.cancellation.cancel()
        if self._running.get(key) is answer:
            del self._running[key]
            self._cancelled.add(answer.task)
            answer.task.add_done_callback(self._discard_task)
            answer.task.cancel()

    def _discard_task(self, task: asyncio.Task[bytes]) -> None:
        self._cancelled.discard(task)
        if not task.cancelled():
            task.exception()  # marks the error as retrieved: no client waits for it

    def _store_answer(self, key: str, task: asyncio.Task[bytes]) -> None:
        if key not in self._running or self._running[key].task is not task:
            return  # it was cancelled
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


def _build_reuse_error() -> FieldError:
    return FieldError.at_field(KEY_HEADER, "was used for another request; give each request its own key")
