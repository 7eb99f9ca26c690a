"""Requests that are sent again: joined to the one under way, or given its answer; judged once."""

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
    fingerprint: str
    task: asyncio.Task[bytes]
    finished_at: float | None = None
    """None while it is under way."""


class IdempotencyCache:
    """Answers by their keys, for some minutes. Work under a key goes on when nobody waits for it any more.

    What ends in an error is forgotten at once: sent again, it is tried again. For one event loop.
    """

    def __init__(self, retain_s: float, most_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Args:
        retain_s: how long an answer is kept.
        most_bytes: of all finished answers together; the oldest are forgotten first.
        clock: seconds, from anywhere.
        """
        self._retain_s = retain_s
        self._most_bytes = most_bytes
        self._clock = clock
        self._under_way: dict[str, CachedAnswer] = {}
        self._finished: OrderedDict[str, CachedAnswer] = OrderedDict()
        self._bytes = 0

    def has_key(self, key: str) -> bool:
        """Whether a request with this key is under way or has its answer."""
        self._evict_answers()
        return key in self._under_way or key in self._finished

    async def run_once(self, key: str, fingerprint: str, work: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The answer to the request with this key: `work` is begun where there is none.

        Args:
            fingerprint: of what was asked; another one under the same key is refused.

        Raises:
            FieldError: the key was used for another request.
            NotNowError: the work was ended by `close`.
        """
        self._evict_answers()
        answer = self._under_way.get(key) or self._finished.get(key)
        if answer is None:
            answer = CachedAnswer(fingerprint, asyncio.create_task(work()))
            self._under_way[key] = answer
            answer.task.add_done_callback(lambda _: self._store_answer(key))
        elif answer.fingerprint != fingerprint:
            raise FieldError.at_field(KEY_HEADER, "was used for another request; give each request a key of its own")
        try:
            return await asyncio.shield(answer.task)
        except asyncio.CancelledError as e:
            if answer.task.cancelled():  # by `close`: it was not the caller who was given up
                raise RetryLaterError("the service is shutting down; try again later") from e
            raise

    async def close(self) -> None:
        """End what is under way."""
        tasks = [answer.task for answer in self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _store_answer(self, key: str) -> None:
        answer = self._under_way.pop(key)
        # Asking for the exception marks it as seen: if nobody waits any more, nobody is told.
        if answer.task.cancelled() or answer.task.exception() is not None:
            return
        answer.finished_at = self._clock()
        self._finished[key] = answer
        self._bytes += len(answer.task.result())
        self._evict_answers()

    def _evict_answers(self) -> None:
        oldest = next(iter(self._finished.values()), None)
        while oldest is not None and oldest.finished_at is not None:
            if self._bytes <= self._most_bytes and oldest.finished_at + self._retain_s > self._clock():
                return
            _, gone = self._finished.popitem(last=False)
            self._bytes -= len(gone.task.result())
            oldest = next(iter(self._finished.values()), None)
