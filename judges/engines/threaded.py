"""Base class of engines that compute in a thread of this process and serve callers from any event loop."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.engines.sleep import EngineSleeper, track_request
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia

T = TypeVar("T")
LINGER_S = 0.02  # an idle engine waits this long for further requests, so that the first batch is not a single one
CLOSE_S = 60.0  # how long `close` waits for the running step


class EngineRequest:
    """Request in the queue of an engine, with a future for its result."""

    # A hung thread may return after its requests were failed, so two threads can resolve the same request.
    _resolving = threading.Lock()

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = (), adapter: Any = None
    ) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.media = tuple(media)
        self.adapter = adapter
        """Adapter of the engine; None for the one that it was started with."""
        self.future: Future[Any] = Future()

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller has cancelled the request."""
        return self.future.cancelled()

    def resolve(self, result: Any) -> None:
        """Return a result or an error to the caller, unless the request is resolved or cancelled already."""
        with self._resolving:
            if self.future.done() or not self.future.set_running_or_notify_cancel():
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)


class EngineCall(EngineRequest):
    """Function in the queue of an engine, which the engine's thread calls between two steps."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__((), Sampling(max_tokens=0))
        self._work = work

    def run(self) -> None:
        """Call the function and return its result or error to the caller."""
        try:
            self.resolve(self._work())
        except Exception as e:  # noqa: BLE001 - passed on to the caller
            self.resolve(e)


class ThreadedEngine(ABC):
    """Base class of the in-process engines.

    A subclass calls `_start_engine` with the function that loads its model, and computes in `_run_step`.
    """

    name = ""
    sleeper: EngineSleeper | None = None
    """Sleep state of the engine; None if it never sleeps."""

    def _start_engine(self, load: Callable[[], None], stall_s: float = math.inf, start_thread: bool = True) -> None:
        """Start the engine thread and wait until it has run `load`.

        Args:
            load: loads the model.
            stall_s: seconds after which a running `_run_step` counts as hung.
            start_thread: if False, run `load` in the calling thread and start no other; the owner of the engine then
                calls `serve_requests`.

        Raises:
            Exception: any error of `load`.
        """
        self._stall_s = stall_s
        self._inbox: queue.SimpleQueue[EngineRequest | None] = queue.SimpleQueue()  # None asks the engine to end
        self._new: list[EngineRequest] = []
        self._step_began: float | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._lock = threading.Lock()  # no request may enter the inbox after `_shut_down` has emptied it
        self._thread: threading.Thread | None = None
        if not start_thread:
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
        """Take the `new` requests (empty the list) and compute for a while.

        Returns:
            Whether there is more to compute.
        """

    @abstractmethod
    def _list_pending(self) -> list[EngineRequest]:
        """List the requests that `_run_step` has taken and not resolved."""

    @abstractmethod
    def _free_model(self) -> None:
        """Release the model."""

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        sampling: Sampling,
        media: Sequence[PreparedMedia] = (),
        adapter: Any = None,
    ) -> Generation:
        """Continue one prompt, see `SupportsAdapters.generate`."""
        with track_request(self.sleeper):
            request = EngineRequest(prompt_token_ids, sampling, media, adapter)
            self._enqueue(request)
            generation: Generation = await asyncio.wrap_future(request.future)
            return generation

    async def _call_in_thread(self, work: Callable[[], T]) -> T:
        """Call a function in the engine's thread, between two steps.

        Raises:
            EngineLostError: the engine has ended.
            Exception: any error of the function.
        """
        call = EngineCall(work)
        self._enqueue(call)
        result: T = await asyncio.wrap_future(call.future)
        return result

    def _enqueue(self, request: EngineRequest) -> None:
        with self._lock:
            if self._ended:
                raise self._build_lost_error()
            self._inbox.put(request)

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine has ended or its step hangs, see `Engine.check_health`."""
        if self._is_hung and not self._ended:
            self._shut_down(TimeoutError(f"a step has taken more than {self._stall_s:g} s"))
        if self._ended:
            raise self._build_lost_error()

    def close(self) -> None:
        """End the thread and release the model. Idempotent."""
        if self._thread is None:
            self._inbox.put(None)  # `serve_requests` returns after answering the requests before this
            return
        if self._thread.is_alive():
            self._inbox.put(None)
            self._thread.join(timeout=0 if self._is_hung else CLOSE_S)
        if self._thread.is_alive():
            self._shut_down()  # the step still runs and uses the model, so the model is not released
        else:
            self._free_model()

    @property
    def _is_hung(self) -> bool:
        began = self._step_began
        return began is not None and time.monotonic() - began > self._stall_s

    def _run_thread(self, load: Callable[[], None], loaded: Future[None]) -> None:
        # The thread that computes also loads the model. libgomp keeps one thread pool for each thread that computes;
        # with two pools it counts more threads than cores and makes all of them sleep between parallel regions.
        try:
            load()
        except BaseException as e:  # noqa: BLE001 - passed on to the caller of _start_engine
            loaded.set_exception(e)
            return
        loaded.set_result(None)
        self.serve_requests()

    def serve_requests(self) -> None:
        """Compute requests until the engine is closed.

        The engine thread runs this; for an engine without a thread, its owner calls it.
        """
        busy = False
        try:
            while not self._ended and self._receive_requests(self._new, busy):
                self._run_calls(self._new)
                if not self._new and not busy:
                    continue
                self._step_began = time.monotonic()
                busy = self._run_step(self._new)
                self._step_began = None
        except BaseException as e:  # whatever ended the thread is reported to every caller
            self._error = self._error or e
            raise
        finally:
            self._step_began = None
            self._shut_down()

    def _shut_down(self, error: Exception | None = None) -> None:
        """Refuse further requests and fail the pending ones.

        Called by the engine thread, or by another one if the engine thread hangs.
        """
        with self._lock:
            self._ended = True
            self._error = self._error or error
        while (request := self._take_request()) is not None:
            self._new.append(request)
        for request in [*self._new, *self._list_pending()]:
            request.resolve(self._build_lost_error())

    def _run_calls(self, new: list[EngineRequest]) -> None:
        """Run the calls among new requests, and remove them and cancelled requests from the list."""
        for request in [request for request in new if request.is_cancelled or isinstance(request, EngineCall)]:
            if isinstance(request, EngineCall) and not request.is_cancelled:
                request.run()
            new.remove(request)

    def _take_request(self) -> EngineRequest | None:
        """Take the next request from the inbox; return None if it is empty."""
        try:
            while (item := self._inbox.get_nowait()) is None:
                pass  # skip markers that ask the engine to end
        except queue.Empty:
            return None
        return item

    def _receive_requests(self, new: list[EngineRequest], busy: bool) -> bool:
        """Move requests from the inbox to `new`; wait for one unless the engine is busy.

        Returns:
            False if the engine was asked to end.
        """
        try:
            item = self._inbox.get(block=not busy)
            # A fixed deadline: a steady trickle of requests must not keep the batch from starting.
            deadline = time.monotonic() + (0.0 if busy else LINGER_S)
            while item is not None:
                new.append(item)
                item = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return True
        return False

    def _build_lost_error(self) -> EngineLostError:
        reason = "it was closed" if self._error is None else repr(self._error)
        return EngineLostError(f"the {self.name} engine has ended: {reason}")
