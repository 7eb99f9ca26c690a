"""Connection of a client to a judge service: requests with retries, media uploads, and health probes."""

from __future__ import annotations

import asyncio
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import (
    MediaError,
    RequestTooLargeError,
    ServiceUnavailableError,
    UsageError,
)
from flex_judge.judges.io.http import Backoff, describe_no_response, parse_retry_after
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.media.types import Media
from flex_judge.reward.client.responses import (
    build_error,
    check_version,
    describe_response,
    parse_error,
    parse_object,
)
from flex_judge.reward.client.retry import (
    MediaRejectedError,
    NoResponseError,
    RecoveryWatch,
    compute_server_deadline,
    get_circuit,
)
from flex_judge.reward.wire import WIRE_HEADER, WIRE_VERSION

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 10.0
MAX_RETRY_S = 20.0
MAX_CONCURRENT_UPLOADS = 4
MAX_REMEMBERED_UPLOADS = 65_536
"""Number of digests of uploaded media that are remembered."""
# 500 is included, because a service may fail once while a replica or the gateway restarts.
TRANSIENT_STATUSES = {408, 425, 429, 500, 502, 503, 504}
"""HTTP statuses after which the same request may succeed later."""


class Connection:
    """State of a client within one event loop: HTTP connections, uploaded media, and the circuit breaker."""

    def __init__(
        self, url: str, api_key: str | None, attempt_s: float, retry_s: float, concurrency: int, waiting: int
    ) -> None:
        import httpx

        self.loop = asyncio.get_running_loop()
        self.circuit = get_circuit(url)
        self._slots = {False: asyncio.Semaphore(concurrency), True: asyncio.Semaphore(waiting)}
        self._url = url
        self._retry_s = retry_s
        self._http = httpx.AsyncClient(
            headers={WIRE_HEADER: WIRE_VERSION} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            timeout=httpx.Timeout(attempt_s, connect=min(CONNECT_TIMEOUT_S, attempt_s), pool=None),
            # The semaphores above limit concurrency; httpx's own pool limit would count waiting group members too.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._has_responded = False
        self._uploaded: OrderedDict[str, None] = OrderedDict()
        # A lock disappears when no upload holds it, so the dict stays small.
        self._upload_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._upload_slots = asyncio.Semaphore(MAX_CONCURRENT_UPLOADS)
        self._probe: asyncio.Task[None] | None = None
        self._recovery = RecoveryWatch(lambda: self.get_health(self.loop.time() + CONNECT_TIMEOUT_S))

    async def close(self) -> None:
        """Close all HTTP connections."""
        await self._http.aclose()

    @asynccontextmanager
    async def reserve_slot(self, waits: bool, deadline: float) -> AsyncIterator[None]:
        """Reserve one of the concurrent requests.

        Args:
            waits: whether the request waits for group members of other callers; these have their own limit.
            deadline: time on the loop's clock, in seconds.

        Raises:
            NoResponseError: the deadline passed before a slot was free.
        """
        slots = self._slots[waits]
        try:
            async with asyncio.timeout_at(deadline):
                await slots.acquire()
        except TimeoutError as e:
            raise NoResponseError("earlier requests used up the time limit") from e
        try:
            yield
        finally:
            slots.release()

    async def post(
        self, path: str, body: dict[str, Any], media: Mapping[str, Media], deadline: float
    ) -> dict[str, Any]:
        """Send a request, after uploading the referenced media that the service does not have.

        Args:
            path: route of the service.
            body: the request; the remaining time is added to it as `deadline_s`.
            media: the referenced media, by digest.
            deadline: time on the loop's clock, in seconds.

        Raises:
            NoResponseError: the deadline passed.
            MediaRejectedError: the service does not accept some of the media; nothing was judged.
            UsageError: the service rejected the request, see `_build_error`.
        """
        # One key for all tries: the service does not judge a request again whose response was lost.
        headers = {"Idempotency-Key": uuid.uuid4().hex, "Content-Type": "application/json"}
        backoff = Backoff(self._retry_s, MAX_RETRY_S)
        problem = ""
        while True:
            try:
                await self._upload_missing(media, deadline)
                response = await self._send_request("POST", path, deadline, body, headers)
            except NoResponseError as e:
                raise NoResponseError(f"{problem}; then {e}" if problem else str(e)) from e
            if response.status_code != 409:
                return parse_object(response)
            missing = {digest for digest in parse_object(response).get("missing_media", ()) if digest in media}
            if not missing:
                raise UsageError(f"{self._url} answered 409 to POST {path}: {describe_response(response)}")
            for digest in missing:
                self._uploaded.pop(digest, None)
            if problem:
                # The second 409 in a row: the media store evicts uploads faster than requests use them, so wait.
                await self._sleep_before_retry(backoff.next_delay(), deadline, problem)
            problem = f"409: {describe_response(response)}"

    async def get(self, path: str, deadline: float) -> dict[str, Any]:
        """Request a JSON object, with retries.

        Raises:
            NoResponseError: the deadline passed.
            UsageError: the service rejected the request.
        """
        return parse_object(await self._send_request("GET", path, deadline, b"", {}))

    async def change_state(self, method: str, path: str, body: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        """Send a JSON object to a route that may be called again with the same effect, with retries.

        Raises:
            NoResponseError: the deadline passed.
            UsageError: the service rejected the request.
        """
        headers = {"Content-Type": "application/json"}
        content = dump_json(body, ascii_only=True).encode()
        return parse_object(await self._send_request(method, path, deadline, content, headers))

    async def get_health(self, deadline: float) -> dict[str, Any]:
        """Request `/healthz` once, without retries.

        Raises:
            NoResponseError: there was no response, or its status is not 200.
        """
        import httpx

        try:
            async with asyncio.timeout_at(deadline):
                response = await self._http.get(f"{self._url}/healthz")
        except (httpx.TransportError, TimeoutError) as e:
            raise NoResponseError(describe_no_response(e)) from e
        if response.status_code != 200:
            raise NoResponseError(f"GET /healthz: {response.status_code}: {describe_response(response)}")
        return parse_object(response)

    async def wait_until_healthy(self, seconds: float) -> None:
        """Wait until the service reports that it is healthy; concurrent callers share one probe.

        Raises:
            ServiceUnavailableError: it did not become healthy within that many seconds.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._probe_until_healthy(seconds))
        # Shielded: a caller that is cancelled must not cancel the probe of the others.
        await asyncio.shield(self._probe)

    async def _probe_until_healthy(self, seconds: float) -> None:
        started = self.loop.time()
        deadline, problem = started + seconds, ""
        backoff = Backoff(self._retry_s, MAX_RETRY_S)
        while True:
            try:
                await self.get_health(deadline)
                return
            except NoResponseError as e:
                # A try that the deadline cut short says less than the problem of the try before it.
                problem = problem if problem and self.loop.time() >= deadline else str(e)
            try:
                await self._sleep_before_retry(backoff.next_delay(), deadline, problem)
            except NoResponseError as e:
                self.circuit.record_failure(started, str(e), silent=True)
                raise ServiceUnavailableError(self.circuit.describe_outage()) from e

    async def _send_request(
        self, method: str, path: str, deadline: float, body: dict[str, Any] | bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        """Send a request and retry it until there is a final response (2xx or 409)."""
        import httpx

        backoff, problem = Backoff(self._retry_s, MAX_RETRY_S), ""
        while True:
            content = body if isinstance(body, bytes) else b""
            if not isinstance(body, bytes):  # the remaining time shrinks with every try
                request = body | {"deadline_s": compute_server_deadline(deadline)}
                content = dump_json(request, ascii_only=True, non_finite_as_null=False).encode()
            retry_after_s, is_away = 0.0, True
            try:
                async with asyncio.timeout_at(deadline):
                    response = await self._http.request(method, self._url + path, content=content, headers=headers)
            except httpx.TransportError as e:
                problem = describe_no_response(e)
            except TimeoutError as e:
                # The problem of an earlier try says more than this try, which the deadline cut short.
                raise NoResponseError(problem or describe_no_response(e)) from e
            else:
                check_version(self._url, response)
                if response.is_success or response.status_code == 409:
                    self._has_responded = True
                    return response
                if not self._is_transient(response):
                    raise build_error(self._url, response, method, path)
                problem = f"{response.status_code}: {describe_response(response)}"
                retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
                is_away = parse_error(response) is None  # a proxy answered in place of the service
            await self._sleep_before_retry(backoff.next_delay(retry_after_s), deadline, problem, is_away)

    def _is_transient(self, response: httpx.Response) -> bool:
        # A restarting service opens its port before it adds its routes: it answers 404 without our error body.
        is_starting = response.status_code == 404 and self._has_responded and parse_error(response) is None
        return response.status_code in TRANSIENT_STATUSES or is_starting

    async def _sleep_before_retry(self, seconds: float, deadline: float, problem: str, is_away: bool = False) -> None:
        """Sleep before the next try; if the service is away, no longer than until it is back.

        A delay beyond the deadline is shortened to half of the remaining time, if that still is `retry_s` or more.
        """
        remaining_s = deadline - self.loop.time()
        if seconds >= remaining_s:
            seconds = remaining_s / 2
            if seconds < self._retry_s:
                raise NoResponseError(problem)
        await (self._recovery.sleep(seconds) if is_away else asyncio.sleep(seconds))

    async def _upload_missing(self, media: Mapping[str, Media], deadline: float) -> None:
        for digest in media.keys() & self._uploaded.keys():
            self._uploaded.move_to_end(digest)
        problems: dict[str, str] = {}

        async def upload(digest: str) -> None:
            try:
                await self._upload_media(digest, media[digest], deadline)
            except (MediaError, RequestTooLargeError) as e:
                problems[digest] = str(e)

        await gather_all([upload(digest) for digest in media if digest not in self._uploaded])
        if problems:
            raise MediaRejectedError(problems)

    async def _upload_media(self, digest: str, medium: Media, deadline: float) -> None:
        lock = self._upload_locks.setdefault(digest, asyncio.Lock())
        async with lock:  # a concurrent request may be uploading the same file
            if digest in self._uploaded:
                return
            async with self._upload_slots:
                path = f"/v1/media/{medium.modality}/{digest}"
                headers = {"Content-Type": "application/octet-stream"}
                await self._send_request("PUT", path, deadline, medium.data, headers)
            self._uploaded[digest] = None
            if len(self._uploaded) > MAX_REMEMBERED_UPLOADS:
                self._uploaded.popitem(last=False)
