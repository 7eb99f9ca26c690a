"""An engine in front of another one that answers from a ledger what it can, and records the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from flex_judge.judges.engines.base import Engine, Generation, Sampling
from flex_judge.judges.engines.recording.ledger import Ledger, compute_generation_key
from flex_judge.judges.engines.recording.replay import record_model
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia

P = ParamSpec("P")
T = TypeVar("T")


class RecordingEngine:
    """An engine with a ledger. It owns both: closing it closes them.

    A generation is recorded before it is returned. Equal requests that are under way at the same time in one event
    loop are computed once; if the computation fails, it fails for all of them, and nothing is recorded. Draws that
    are to differ must differ in `Sampling.sample_index` or `Sampling.seed`.
    """

    def __init__(self, engine: Engine, ledger: Ledger) -> None:
        """Raises:
        LedgerError: the model cannot be noted in the ledger.
        """
        self.engine = engine
        self.ledger = ledger
        self.name = engine.name
        self.model_id = engine.model_id
        self.tokenizer: Any = engine.tokenizer
        self.profile = engine.profile
        self.max_model_len = engine.max_model_len
        self.max_batch = engine.max_batch
        self.hits = 0
        """Requests that were answered from the ledger. Equal requests under way together count as one."""
        self.misses = 0
        """Requests that the inner engine was asked."""
        self._under_way: dict[tuple[asyncio.AbstractEventLoop, bytes], _SharedTask] = {}
        # SQLite may wait for other processes, which must not hold up an event loop; one thread, because a connection
        # does one thing at a time.
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        record_model(ledger, engine)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """See `Engine.generate`. Cancelling the call gives the work up unless an equal request waits for it.

        Raises:
            EngineLostError: the inner engine died, or this one was closed.
            LedgerError: the ledger cannot be read or written; the generation is lost.
        """
        key = compute_generation_key(self.name, self.model_id, prompt_token_ids, sampling, media)
        place = asyncio.get_running_loop(), key
        shared = self._under_way.get(place)
        if shared is None:
            answer = self._answer_request(key, tuple(prompt_token_ids), sampling, tuple(media))
            shared = self._under_way[place] = _SharedTask(asyncio.create_task(answer))
        try:
            return await shared.wait_for_result()
        finally:
            if shared.is_done and self._under_way.get(place) is shared:
                del self._under_way[place]

    async def check_health(self) -> None:
        await self.engine.check_health()

    def close(self) -> None:
        """Close the inner engine, write what is still to be recorded, and close the ledger. Idempotent."""
        self.engine.close()
        self._worker.shutdown()
        self.ledger.close()

    async def _answer_request(
        self, key: bytes, prompt: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia]
    ) -> Generation:
        found = await self._run_on_worker(self._look_up_generation, key)
        if found is not None:
            return found
        generation = await self.engine.generate(prompt, sampling, media)
        # What is computed is kept, also if nobody waits for it any longer.
        return await asyncio.shield(self._run_on_worker(self.ledger.put, key, generation))

    def _look_up_generation(self, key: bytes) -> Generation | None:
        found = self.ledger.get(key)
        # Counted here, in the one thread of the worker: event loops may run in several.
        self.hits += found is not None
        self.misses += found is None
        return found

    def _run_on_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        try:
            return asyncio.wrap_future(self._worker.submit(work, *args, **kwargs))
        except RuntimeError as e:  # the executor's word for having been shut down
            raise EngineLostError(f"the {self.name} engine was closed, and its ledger with it") from e


class _SharedTask:
    """A computation and the number of callers who wait for it; when the last one leaves, it is cancelled."""

    def __init__(self, task: asyncio.Task[Generation]) -> None:
        self._task = task
        self._waiting = 0
        task.add_done_callback(_consume_exception)

    @property
    def is_done(self) -> bool:
        """Whether it is too late to wait for it."""
        return self._task.done() or self._task.cancelling() > 0

    async def wait_for_result(self) -> Generation:
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._task.cancel()  # of no effect on one that is done


def _consume_exception(task: asyncio.Task[Generation]) -> None:
    """Look at the error of a computation that all callers left, so that asyncio does not report it as forgotten."""
    if not task.cancelled():
        task.exception()
