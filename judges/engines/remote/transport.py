"""HTTP requests of the remote engine: retries, a limit that adapts to the server, and errors with types."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Any
from weakref import WeakKeyDictionary

from flex_judge.judges.engines.remote.messages import build_rejection, summarize_error
from flex_judge.judges.errors import EngineLostError, GenerationError
from flex_judge.judges.io.http import Backoff, describe_no_response, parse_retry_after
from flex_judge.judges.io.json_values import dump_json

CONNECT_TIMEOUT_S = 10.0
FIRST_RETRY_S, MAX_RETRY_S = 0.5, 20.0
BUSY_STATUSES = {429, 503}
"""Statuses of a server with too much work, or one that is starting or stopping."""
AWAY_STATUSES = {502, 504}
"""Statuses of a proxy whose server does not answer."""
MAX_BROKEN = 3
"""Number of broken responses to one request, after which the request fails."""


class Transport:
    """Connections to one server, one pool per event loop.

    A request is repeated while the server is busy or away. It fails with EngineLostError once the server has answered
    nothing for `stall_s`, and with GenerationError if the server fails at this request but answers others.
    """

    def __init__(self, url: str, key: str | None, stall_s: float, max_concurrency: int) -> None:
        """Prepare the connections; none is opened yet.

        Args:
            url: address that paths are added to.
            key: API key, or None.
            stall_s: seconds without any response after which the server counts as lost.
            max_concurrency: maximum number of concurrent requests.
        """
        self.url = url
        self._key, self._stall_s, self._max_concurrency = key, stall_s, max_concurrency
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()
        self._answered = time.monotonic()
        self._away_since: float | None = None
        self._is_closed = False

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a request and return the JSON of its response. Cancelling the call closes its connection.

        Raises:
            UsageError: the server rejects the request.
            AccessError: the server rejects the key, or does not know the path or the model.
            GenerationError: the server fails at this request.
            EngineLostError: the server does not answer any more, or the transport was closed.
        """
        content = dump_json(body, ascii_only=True, non_finite_as_null=False).encode()
        backoff, broken, started = Backoff(FIRST_RETRY_S, MAX_RETRY_S), 0, time.monotonic()
        pool = self._get_pool()
        while True:
            attempt = await self._try_request(pool, path, content)
            if attempt.is_complete:
                return attempt.value
            broken += attempt.is_broken
            if broken >= MAX_BROKEN:
                raise GenerationError(f"{self.url}: {attempt.problem}; {MAX_BROKEN} tries failed")
            delay = backoff.next_delay(attempt.retry_after_s)
            # Without this rule, the requests that wait for a dead server would each wait for their own deadline.
            silent_s = time.monotonic() + delay - max(self._answered, started)
            if silent_s >= self._stall_s:
                raise EngineLostError(f"{self.url}: no answer for {self._stall_s:g} s; last problem: {attempt.problem}")
            await asyncio.sleep(delay)

    async def is_answering(self, url: str) -> bool:
        """Return whether the server answers a GET request with a status below 500, and remember it."""
        import httpx

        try:
            response = await self._get_pool().http.get(url, timeout=CONNECT_TIMEOUT_S)
            is_answering = response.status_code < 500
        except httpx.RequestError:
            is_answering = False
        if is_answering:
            self._record_answer()
        elif self._away_since is None:
            self._away_since = time.monotonic()
        return is_answering

    @property
    def away_s(self) -> float:
        """Seconds since `is_answering` first found that the server does not; 0 if it has answered since."""
        return 0.0 if self._away_since is None else time.monotonic() - self._away_since

    def check_open(self) -> None:
        """Raise EngineLostError if the transport was closed."""
        if self._is_closed:
            raise EngineLostError("the remote engine was closed")

    def close(self) -> None:
        """Close all connections; requests in progress fail. Idempotent."""
        self._is_closed = True
        for loop, pool in list(self._pools.items()):
            if loop.is_running():  # the connections of a loop that has ended are closed with it
                asyncio.run_coroutine_threadsafe(pool.http.aclose(), loop)

    def _get_pool(self) -> _Pool:
        self.check_open()
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = _Pool(self._key, self._stall_s, self._max_concurrency)
        return self._pools[loop]

    async def _try_request(self, pool: _Pool, path: str, content: bytes) -> _Attempt:
        import httpx

        async with pool.limit:
            started = time.monotonic()
            try:
                response = await pool.http.post(
                    self.url + path, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.ReadTimeout as e:
                return self._handle_stall(e, started)
            except httpx.RequestError as e:
                self.check_open()
                # A response that breaks off may break off again; a server that is away may return.
                is_broken = isinstance(e, httpx.RemoteProtocolError | httpx.DecodingError)
                return _Attempt(problem=describe_no_response(e), is_broken=is_broken)
            status = response.status_code
            if status in BUSY_STATUSES:
                pool.limit.shrink(started)
            problem = f"{status}: {summarize_error(response, self._key)}"
            if status in BUSY_STATUSES | AWAY_STATUSES:
                return _Attempt(problem=problem, retry_after_s=parse_retry_after(response.headers.get("Retry-After")))
            self._record_answer()
            if status >= 500:
                return _Attempt(problem=problem, is_broken=True)
            if not response.is_success:
                raise build_rejection(response, self._key)
            pool.limit.grow()
            try:
                return _Attempt(value=response.json(), is_complete=True)
            except ValueError:
                return _Attempt(problem=f"expected JSON, got {response.text!r:.80}", is_broken=True)

    def _record_answer(self) -> None:
        self._answered, self._away_since = time.monotonic(), None

    def _handle_stall(self, error: Exception, started: float) -> _Attempt:
        """Raise the error for a request that had no response within `stall_s`: it was waited for long enough."""
        problem = f"{self.url}: no response within {self._stall_s:g} s ({type(error).__name__})"
        if self._answered > started:
            raise GenerationError(f"{problem}, while other requests were answered") from error
        raise EngineLostError(f"{problem}; check the server's log") from error


class _Attempt:
    """Outcome of one try: the JSON of the response, or a problem after which the request is sent again."""

    def __init__(
        self,
        value: Any = None,
        problem: str = "",
        *,
        is_complete: bool = False,
        is_broken: bool = False,
        retry_after_s: float = 0.0,
    ) -> None:
        self.value, self.problem = value, problem
        self.is_complete, self.is_broken, self.retry_after_s = is_complete, is_broken, retry_after_s


class _Pool:
    """Connection pool and limit of one event loop."""

    def __init__(self, key: str | None, stall_s: float, max_concurrency: int) -> None:
        import httpx

        self.limit = AdaptiveLimit(max_concurrency)
        self.http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(stall_s, connect=min(CONNECT_TIMEOUT_S, stall_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=max_concurrency),
        )


class AdaptiveLimit:
    """Semaphore whose size halves when the server is busy and grows by one per size of answers (AIMD).

    Belongs to one event loop. Waiting callers are served in order.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = float(maximum)
        self.size = float(maximum)
        """Current limit; callers get its whole part, at least one."""
        self._running = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._shrunk_at = 0.0

    def shrink(self, started: float) -> None:
        """Halve the limit, once for all requests that were under way at the same time.

        Args:
            started: `time.monotonic()` when the rejected request was sent.
        """
        if started >= self._shrunk_at:
            self.size = max(1.0, self.size / 2)
            self._shrunk_at = time.monotonic()

    def grow(self) -> None:
        """Raise the limit after an answer."""
        self.size = min(self._maximum, self.size + 1 / self.size)

    async def __aenter__(self) -> None:
        if self._waiting or self._running >= int(self.size):
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._release()  # the turn came at the moment of the cancellation
                raise
        else:
            self._running += 1

    async def __aexit__(self, *error: object) -> None:
        self._release()

    def _release(self) -> None:
        self._running -= 1
        while self._waiting and self._running < int(self.size):
            turn = self._waiting.popleft()
            if not turn.done():
                self._running += 1
                turn.set_result(None)
