"""HTTP requests to an OpenAI-compatible endpoint, with retries, a deadline and limited concurrency."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import AccessError, EngineLostError, UsageError, to_one_line
from flex_judge.judges.io.http import Backoff, describe_no_response, extract_message, parse_retry_after
from flex_judge.judges.io.json_values import dump_json
from flex_judge.reward.client.transport import CONNECT_TIMEOUT_S, MAX_RETRY_S, TRANSIENT_STATUSES

if TYPE_CHECKING:
    import httpx

FIRST_RETRY_S = 0.5
HEALTH_TIMEOUT_S = 10.0


class Endpoint:
    """Connections to one endpoint. Belongs to the event loop that creates it."""

    def __init__(self, url: str, key: str | None, attempt_s: float, deadline_s: float, concurrency: int) -> None:
        """Open a connection pool.

        Args:
            url: Base URL, see `normalize_base_url`.
            key: API key, or None.
            attempt_s: Seconds without a response after which a request is retried.
            deadline_s: Time limit of a request in seconds, with all retries and waits, from when it is first sent.
            concurrency: Maximum number of concurrent requests; further ones wait.
        """
        import httpx

        self.loop = asyncio.get_running_loop()
        self._url, self._key, self._deadline_s = url, key, deadline_s
        self._request_slots = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(attempt_s, connect=min(CONNECT_TIMEOUT_S, attempt_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=concurrency),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """Send a request and return the JSON of its response. Transient failures are retried.

        Raises:
            UsageError: The endpoint rejects the request; the message gives its reason.
            AccessError: The endpoint rejects the key, or does not know the path or the model.
            EngineLostError: No usable response before the deadline.
        """
        import httpx

        content = dump_json(body, ascii_only=True, non_finite_as_null=False).encode()
        backoff, problem = Backoff(FIRST_RETRY_S, MAX_RETRY_S), ""
        async with self._request_slots:
            # The deadline starts when the request's turn has come: a long queue is not the endpoint's fault.
            deadline = self.loop.time() + self._deadline_s
            while True:
                retry_after_s = 0.0
                try:
                    async with asyncio.timeout_at(deadline):
                        response = await self._http.post(
                            self._url + path, content=content, headers={"Content-Type": "application/json"}
                        )
                except httpx.RequestError as e:
                    problem = describe_no_response(e)
                except TimeoutError as e:
                    # The deadline cut this attempt short, so the problem of an earlier one says more.
                    raise self._make_lost_error(problem or describe_no_response(e)) from e
                else:
                    if response.is_success:
                        return self._parse_json(response)
                    if response.status_code not in TRANSIENT_STATUSES:
                        raise self._make_error(response)
                    problem = f"{response.status_code}: {self._summarize_error(response)}"
                    retry_after_s = parse_retry_after(response.headers.get("Retry-After"))
                delay = backoff.next_delay(retry_after_s)
                if self.loop.time() + delay >= deadline:
                    raise self._make_lost_error(problem)
                await asyncio.sleep(delay)

    async def check_health(self) -> None:
        """Check that the endpoint responds and accepts the key.

        Any other status below 500 counts as healthy, because not every endpoint lists its models.

        Raises:
            AccessError: The endpoint rejects the key.
            EngineLostError: The endpoint does not respond, or fails.
        """
        import httpx

        try:
            response = await self._http.get(f"{self._url}/models", timeout=HEALTH_TIMEOUT_S)
        except httpx.RequestError as e:
            raise EngineLostError(f"{self._url}: {describe_no_response(e)}; check that the endpoint is running") from e
        if response.status_code in (401, 403):
            raise self._make_error(response)
        if response.status_code >= 500:
            raise EngineLostError(f"{self._url}: {response.status_code}: {self._summarize_error(response)}")

    def _parse_json(self, response: httpx.Response) -> Any:
        try:
            return response.json()
        except ValueError as e:
            raise UsageError(
                f"{self._url}: expected JSON, got {self._summarize_error(response)!r:.80}; is this the address of an "
                "OpenAI-compatible endpoint?"
            ) from e

    def _make_error(self, response: httpx.Response) -> UsageError:
        message, status = self._summarize_error(response), response.status_code
        if status in (401, 403):
            return AccessError(f"{self._url}: {status}: {message}; give the key as api_key: env:NAME or a file")
        if status == 404:
            return AccessError(f"{self._url}: 404: {message}; check the address and the name of the model")
        return UsageError(f"{self._url}: {status}: {message}")

    def _summarize_error(self, response: httpx.Response) -> str:
        """Return the endpoint's own message in one line, without the key."""
        message = to_one_line(extract_message(response))
        # Some endpoints repeat the key in their message.
        if self._key:
            message = message.replace(self._key, "***")
        return message[:500] or response.reason_phrase

    def _make_lost_error(self, problem: str) -> EngineLostError:
        return EngineLostError(f"{self._url}: no completion within {self._deadline_s:g} s; last problem: {problem}")
