"""An engine that computes in a thread of this process, whatever event loop its callers live in."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia

LINGER_S = 0.02  # how long an idle engine waits for company before it starts
CLOSE_S = 60.0  # how long closing waits for the step under way


class EngineRequest:
    """A prompt on its way through an engine."""

    _resolving = threading.Lock()  # a thread that hung may come back when its callers have been told that it is lost

    def __init__(self, prompt: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.media = tuple(media)
        self.future: Future[Generation] = Future()

    @property
    def is_cancelled(self) -> bool:
        return self.future.cancelled()

    def resolve(self, result: Generation | Exception) -> None:
        """Answer the caller, unless there has been an answer or nobody waits for one."""
        with self._resolving:
            if self.future.done() or not self.future.set_running_or_notify_cancel():
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)


class ThreadedEngine(ABC):
    """Base of the in-process engines. A subclass calls `_start` with what loads its model, and computes in `_work`."""

    name = ""

    def _start_engine(self, load: Callable[[], None], stall_s: float = math.inf, here: bool = False) -> None:
        """Start the thread, and wait until `load` has run in it. A call of `_work` that takes longer than `stall_s`
        seconds is taken to hang.

        Args:
            here: start none; whoever made the engine calls `compute`.

        Raises:
            Exception: what `load` raises.
        """
        self._stall_s = stall_s
        self._inbox: queue.SimpleQueue[EngineRequest | None] = queue.SimpleQueue()
        self._new: list[EngineRequest] = []
        self._step_began: float | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._lock = threading.Lock()  # between a caller who puts a request in and the engine's end
        self._thread: threading.Thread | None = None
        if here:
            load()
            return
        loaded: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run_thread, args=(load, loaded), name=f"{self.name}-engine", daemon=True
        )
        self._thread.start()
        loaded.result()

    @abstractmethod
    def _run_step(self, new: list[EngineRequest]) -> bool:
        """Take the `new` requests (empty the list) and compute for a while. True if there is more to compute."""

    @abstractmethod
    def _list_pending(self) -> list[EngineRequest]:
        """Requests that `_work` has taken and not resolved."""

    @abstractmethod
    def _free_model(self) -> None:
        """Let go of the model."""

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        request = EngineRequest(prompt_token_ids, sampling, media)
        with self._lock:
            if self._ended:
                raise self._build_lost_error()
            self._inbox.put(request)
        return await asyncio.wrap_future(request.future)

    async def check_health(self) -> None:
        if self._is_hung and not self._ended:
            self._shut_down(TimeoutError(f"a step has taken more than {self._stall_s:g} s"))
        if self._ended:
            raise self._build_lost_error()

    def close(self) -> None:
        if self._thread is None:
            self._inbox.put(None)
            return  # `compute` ends when it has answered what is before this
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(timeout=0 if self._is_hung else CLOSE_S)
        if self._thread.is_alive():
            self._shut_down()  # a step that does not return goes on, so what it computes with stays
        else:
            self._free_model()

    @property
    def _is_hung(self) -> bool:
        began = self._step_began
        return began is not None and time.monotonic() - began > self._stall_s

    def _run_thread(self, load: Callable[[], None], loaded: Future[None]) -> None:
        # The model is loaded by the thread that computes with it, because libgomp keeps a pool of threads for each
        # thread that computes; with two pools it counts more threads than cores, and none waits for work awake.
        try:
            load()
        except BaseException as e:  # noqa: BLE001 - told to whoever waits, whatever it is
            loaded.set_exception(e)
            return
        loaded.set_result(None)
        self.serve_requests()

    def serve_requests(self) -> None:
        """Answer requests until the engine is closed: for an engine without a thread of its own, in the caller's."""
        busy = False
        try:
            while not self._ended and self._receive_requests(self._new, busy):
                self._step_began = time.monotonic()
                busy = self._run_step(self._new)
                self._step_began = None
        except BaseException as e:  # the thread's boundary: whatever ended the engine becomes every caller's error
            self._error = self._error or e
            raise
        finally:
            self._step_began = None
            self._shut_down()

    def _shut_down(self, error: Exception | None = None) -> None:
        """Take no more requests, and tell everyone who waits. Called by the thread, or for it when it hangs."""
        with self._lock:
            self._ended = True
            self._error = self._error or error
        while (item := self._take_request()) is not None:
            self._new.append(item)
        for request in [*self._new, *self._list_pending()]:
            request.resolve(self._build_lost_error())

    def _take_request(self) -> EngineRequest | None:
        """The next request that nobody has taken, or None."""
        try:
            while (item := self._inbox.get_nowait()) is None:
                pass  # a request to end
        except queue.Empty:
            return None
        return item

    def _receive_requests(self, new: list[EngineRequest], busy: bool) -> bool:
        """Move what has arrived to `new`: at once if the engine is busy, else wait. False when it is time to end."""
        try:
            item = self._inbox.get(block=not busy)
            deadline = time.monotonic() + (0.0 if busy else LINGER_S)
            while item is not None:
                new.append(item)
                item = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return True
        return False

    def _build_lost_error(self) -> EngineLostError:
        reason = "it was closed" if self._error is None else repr(self._error)
        return EngineLostError(f"the {self.name} engine is gone: {reason}")
