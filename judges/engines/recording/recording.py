"""Recording engine: wraps another engine, answers from a ledger when possible, and records new generations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from flex_judge.judges.engines.adapters import Adapter, AdapterHost
from flex_judge.judges.engines.base import Engine, Generation, Sampling, find_server
from flex_judge.judges.engines.recording.ledger import Ledger, compute_generation_key
from flex_judge.judges.engines.recording.replay import record_model
from flex_judge.judges.engines.sleep import find_sleeper
from flex_judge.judges.errors import AdapterError, EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia

P = ParamSpec("P")
T = TypeVar("T")


class RecordingEngine:
    """Engine with a ledger. It owns both the inner engine and the ledger; closing it closes them.

    A generation is recorded before it is returned. Equal concurrent requests of one event loop are computed once; if
    that computation fails, it fails for all of them, and nothing is recorded. Requests for different samples must
    differ in `Sampling.sample_index` or `Sampling.seed`.
    """

    def __init__(self, engine: Engine, ledger: Ledger, owner: RecordingEngine | None = None) -> None:
        """Wrap an engine and record its model in the ledger.

        Args:
            engine: engine that computes.
            ledger: ledger of its generations.
            owner: recording engine that owns the ledger, if `engine` is another adapter on its model.

        Raises:
            LedgerError: the model cannot be recorded.
        """
        self.engine = engine
        self.ledger = ledger
        self.name = engine.name
        self.model_id = engine.model_id
        self.tokenizer: Any = engine.tokenizer
        self.profile = engine.profile
        self.max_model_len = engine.max_model_len
        self.max_batch = engine.max_batch
        self.sleeper = find_sleeper(engine)
        self.server = find_server(engine)
        self.hits = 0
        """Number of requests answered from the ledger. Equal concurrent requests count as one."""
        self.misses = 0
        """Number of requests passed to the inner engine."""
        self._pending: dict[tuple[asyncio.AbstractEventLoop, bytes], _SharedTask] = {}
        # SQLite may wait for other processes, which must not block an event loop. One thread is enough, because a
        # connection runs one statement at a time.
        self._owner = owner
        self._worker: ThreadPoolExecutor = (
            ThreadPoolExecutor(1, thread_name_prefix="ledger") if owner is None else owner._worker
        )
        record_model(ledger, engine)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        """Answer from the ledger or compute and record, see `Engine.generate`.

        Cancelling the call cancels the computation unless an equal request waits for it.

        Raises:
            EngineLostError: the inner engine has ended, or this one was closed.
            LedgerError: the ledger cannot be read or written; the generation is lost.
        """
        key = compute_generation_key(self.name, self.model_id, prompt_token_ids, sampling, media)
        # Tasks belong to one event loop, so requests of different loops are not shared.
        task_key = asyncio.get_running_loop(), key
        shared = self._pending.get(task_key)
        if shared is None:
            answer = self._answer_request(key, tuple(prompt_token_ids), sampling, tuple(media))
            shared = self._pending[task_key] = _SharedTask(asyncio.create_task(answer))
        try:
            return await shared.wait_for_result()
        finally:
            # A new equal request may have replaced a task that is being cancelled; leave that one alone.
            if shared.is_done and self._pending.get(task_key) is shared:
                del self._pending[task_key]

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load an adapter into the inner engine; its generations go to the same ledger, under its own model id."""
        if not isinstance(self.engine, AdapterHost):
            raise AdapterError(f"adapter {adapter.name!r}: the {self.name} engine cannot load an adapter while it runs")
        engine = await self.engine.load_adapter(adapter)
        return await self._run_on_worker(RecordingEngine, engine, self.ledger, self._owner or self)

    async def check_health(self) -> None:
        """Check the inner engine, see `Engine.check_health`."""
        await self.engine.check_health()

    def close(self) -> None:
        """Close the inner engine, write pending generations, and close the ledger. Idempotent."""
        self.engine.close()
        if self._owner is not None:
            return
        self._worker.shutdown()
        self.ledger.close()

    async def _answer_request(
        self, key: bytes, prompt: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia]
    ) -> Generation:
        recorded = await self._run_on_worker(self._look_up_generation, key)
        if recorded is not None:
            return recorded
        generation = await self.engine.generate(prompt, sampling, media)
        # Shielded: a finished generation is recorded even if its caller has cancelled.
        return await asyncio.shield(self._run_on_worker(self.ledger.put, key, generation))

    def _look_up_generation(self, key: bytes) -> Generation | None:
        recorded = self.ledger.get(key)
        # Counted in the worker thread, because event loops may run in several threads.
        self.hits += recorded is not None
        self.misses += recorded is None
        return recorded

    def _run_on_worker(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        try:
            return asyncio.wrap_future(self._worker.submit(work, *args, **kwargs))
        except RuntimeError as e:  # raised by an executor that was shut down
            raise EngineLostError(f"the {self.name} engine was closed, and its ledger with it") from e


class _SharedTask:
    """Computation with several waiting callers; it is cancelled when the last of them cancels."""

    def __init__(self, task: asyncio.Task[Generation]) -> None:
        self._task = task
        self._waiting = 0
        task.add_done_callback(_consume_exception)

    @property
    def is_done(self) -> bool:
        """Whether the computation has ended or is being cancelled, so that no caller can join it."""
        return self._task.done() or self._task.cancelling() > 0

    async def wait_for_result(self) -> Generation:
        """Wait for the computation; cancel it if this is the last caller and it is cancelled."""
        self._waiting += 1
        try:
            return await asyncio.shield(self._task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._task.cancel()  # has no effect on a finished task


def _consume_exception(task: asyncio.Task[Generation]) -> None:
    """Retrieve the task's exception, so that asyncio does not log it as never retrieved."""
    if not task.cancelled():
        task.exception()
