"""A client's connections to a judge service: requests that are tried until they are answered or a deadline passes."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import (
    AccessError,
    JudgeError,
    MediaError,
    RequestTooLargeError,
    ServiceUnavailableError,
    UsageError,
)
from flex_judge.judges.media.types import Media
from flex_judge.reward.client.retry import Backoff, CircuitBreaker, parse_retry_after

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
MAX_RETRY_S = 20.0
MAX_CONCURRENT_UPLOADS = 4
"""Media that are sent at a time."""
MAX_REMEMBERED_UPLOADS = 65_536
"""Digests of uploaded media that are remembered."""
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may fare better."""


class NoResponseError(Exception):
    """The deadline of a request passed. Says what happened last; does not leave the client."""


class Connection:
    """What a client holds for as long as its event loop lives: connections, what was uploaded, and the circuit."""

    def __init__(
        self, url: str, api_key: str | None, attempt_s: float, retry_s: float, concurrency: int, waiting: int
    ) -> None:
        import httpx

        self.loop = asyncio.get_running_loop()
        self.circuit = _circuits.setdefault(url, CircuitBreaker(url))
        self._room = {False: asyncio.Semaphore(concurrency), True: asyncio.Semaphore(waiting)}
        self._url = url
        self._retry_s = retry_s
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(attempt_s, connect=min(CONNECT_TIMEOUT_S, attempt_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._answered = False
        self._uploaded: OrderedDict[str, None] = OrderedDict()
        self._uploading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._upload_room = asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)
        self._probe: asyncio.Task[None] | None = None

    async def close(self) -> None:
        await self._http.aclose()

    @asynccontextmanager
    async def reserve_slot(self, waits: bool, deadline: float) -> AsyncIterator[None]:
        """A place among the requests that may be under way at a time; those that wait for others have their own.

        Raises:
            NoAnswerError: the deadline passed before one was free.
        """
        room = self._room[waits]
        try:
            async with asyncio.timeout_at(deadline):
                await room.acquire()
        except TimeoutError as e:
            raise NoResponseError("the requests before it took all of the time") from e
        try:
            yield
        finally:
            room.release()

    async def post(
        self, path: str, body: dict[str, Any], media: Mapping[str, Media], deadline: float
    ) -> dict[str, Any]:
        """Send a request, and before it the media that it refers to and the service does not have.

        Args:
            body: the request; the time that is left is added to it as `deadline_s`.
            deadline: on the loop's clock, in seconds.

        Raises:
            NoAnswerError: the deadline passed.
            UsageError: the service refused it, see `_refusal`.
        """
        # One key over all tries: a request whose answer got lost is not judged a second time.
        headers = {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "application/json"}
        backoff = Backoff(self._retry_s, MAX_RETRY_S)
        problem = ""
        while True:
            try:
                await self._upload_missing(media, deadline)
                answer = await self._send_request("POST", path, deadline, body, headers)
            except NoResponseError as e:
                raise NoResponseError(f"{problem}; then {e}" if problem else str(e)) from e
            if answer.status_code != 409:
                return _parse_object(answer)
            lost = {digest for digest in _parse_object(answer).get("missing_media", ()) if digest in media}
            if not lost:
                raise UsageError(f"{self._url} answered 409 to POST {path}: {_describe_response(answer)}")
            for digest in lost:
                self._uploaded.pop(digest, None)
            if problem:  # it does not keep what it is sent: more is under way than its store holds
                await self._sleep_before_retry(backoff.next_delay(), deadline, problem)
            problem = f"409: {_describe_response(answer)}"

    async def get_health(self, deadline: float) -> dict[str, Any]:
        """What the service says of itself, in one try.

        Raises:
            NoAnswerError: it gives no answer, or a bad one.
        """
        import httpx

        try:
            async with asyncio.timeout_at(deadline):
                answer = await self._http.get(f"{self._url}/healthz")
        except (httpx.TransportError, TimeoutError) as e:
            raise NoResponseError(describe_no_response(e)) from e
        if answer.status_code != 200:
            raise NoResponseError(f"GET /healthz: {answer.status_code}: {_describe_response(answer)}")
        return _parse_object(answer)

    async def wait_until_healthy(self, seconds: float) -> None:
        """Wait until the service says that it is well, for so many seconds at most; callers share one probe.

        Raises:
            ServiceUnavailableError: it did not, and was not there before either.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_until_healthy(seconds))
        await asyncio.shield(self._probe)

    async def _probe_until_healthy(self, seconds: float) -> None:
        started = self.loop.time()
        deadline, problem = started + seconds, ""
        backoff = Backoff(self._retry_s, MAX_RETRY_S)
        while True:
            try:
                await self.get_health(deadline)
                return
            except NoResponseError as e:  # of one that was cut short, what was wrong before says more
                problem = problem if problem and self.loop.time() >= deadline else str(e)
            try:
                await self._sleep_before_retry(backoff.next_delay(), deadline, problem)
            except NoResponseError as e:
                self.circuit.record_failure(started, str(e), silent=True)
                raise ServiceUnavailableError(self.circuit.describe_outage()) from e

    async def _send_request(
        self, method: str, path: str, deadline: float, body: dict[str, Any] | bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """A request, tried until it has an answer that is final: 2xx or 409."""
        import httpx

        backoff, problem = Backoff(self._retry_s, MAX_RETRY_S), ""
        while True:
            content = (
                body
                if isinstance(body, bytes)
                else json.dumps(body | {"deadline_s": _compute_server_deadline(deadline)}).encode()
            )
            wait_s = 0.0
            try:
                async with asyncio.timeout_at(deadline):
                    answer = await self._http.request(method, self._url + path, content=content, headers=headers)
            except httpx.TransportError as e:
                problem = describe_no_response(e)
            except TimeoutError as e:  # of a try that was cut short, what was wrong before says more
                raise NoResponseError(problem or describe_no_response(e)) from e
            else:
                if answer.is_success or answer.status_code == 409:
                    self._answered = True
                    return answer
                if not self._is_transient(answer):
                    raise _build_error(self._url, answer, method, path)
                problem = f"{answer.status_code}: {_describe_response(answer)}"
                wait_s = parse_retry_after(answer.headers.get("Retry-After"))
            await self._sleep_before_retry(backoff.next_delay(wait_s), deadline, problem)

    def _is_transient(self, answer: httpx.Response) -> bool:
        # A service that starts again knows its routes a little later than its port: 404 without our own text.
        starting = answer.status_code == 404 and self._answered and _parse_error(answer) is None
        return answer.status_code in TRANSIENT_STATUSES or starting

    async def _sleep_before_retry(self, seconds: float, deadline: float, problem: str) -> None:
        """Wait before the next try; what would be too late is tried halfway to the deadline, if that is worth it."""
        left = deadline - self.loop.time()
        if seconds >= left:
            seconds = left / 2
            if seconds < self._retry_s:
                raise NoResponseError(problem)
        await asyncio.sleep(seconds)

    async def _upload_missing(self, media: Mapping[str, Media], deadline: float) -> None:
        for digest in media.keys() & self._uploaded.keys():
            self._uploaded.move_to_end(digest)
        new = [digest for digest in media if digest not in self._uploaded]
        await gather_all([self._upload_media(digest, media[digest], deadline) for digest in new])

    async def _upload_media(self, digest: str, medium: Media, deadline: float) -> None:
        lock = self._uploading.setdefault(digest, asyncio.Lock())
        async with lock:  # another request may be sending the same picture
            if digest in self._uploaded:
                return
            async with self._upload_room:
                path = f"/v1/media/{medium.modality}/{digest}"
                await self._send_request(
                    "PUT", path, deadline, medium.data, {"Content-Type": "application/octet-stream"}
                )
            self._uploaded[digest] = None
            if len(self._uploaded) > MAX_REMEMBERED_UPLOADS:
                self._uploaded.popitem(last=False)


_circuits: dict[str, CircuitBreaker] = {}
"""By URL: an outage is the service's, whatever settings a client has."""


def _compute_server_deadline(deadline: float) -> float:
    """The seconds that the service is given: those left, less what its answer needs to come back."""
    left = max(0.0, deadline - asyncio.get_running_loop().time())
    return round(left - min(5.0, 0.1 * left), 3)


def describe_no_response(error: Exception) -> str:
    """Say that a request got no answer, and why."""
    return f"no answer ({type(error).__name__}{f': {error}' if str(error) else ''})"


def _parse_error(answer: httpx.Response) -> str | None:
    """The text of an error body of ours; None for another's."""
    try:
        body = answer.json()
    except ValueError:
        return None
    return body["error"] if isinstance(body, dict) and isinstance(body.get("error"), str) else None


def _describe_response(answer: httpx.Response) -> str:
    text = _parse_error(answer) or answer.text
    return " ".join(text.split())[:500] or answer.reason_phrase


def _parse_object(answer: httpx.Response) -> dict[str, Any]:
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UsageError(
            f"{answer.url}: expected a JSON object, got {_describe_response(answer)!r:.80}; is this a judge service?"
        )
    return body


def _build_error(url: str, answer: httpx.Response, method: str, path: str) -> JudgeError:
    """What an answer that will not change means to the caller."""
    line, status = _describe_response(answer), answer.status_code
    if status in (401, 403):
        return AccessError(f"{url}: {line}; give its key as api_key, or in the environment as FLEX_JUDGE_API_KEY")
    if status == 413:
        return RequestTooLargeError(f"{url}: {line}; send less at a time (chunk), or raise the service's limits")
    if status in (400, 422):
        return MediaError(line) if method == "PUT" else UsageError(line)
    return UsageError(f"{url} answered {status} to {method} {path}: {line}; is this the address of a judge service?")
