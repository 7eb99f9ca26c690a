"""Requests to an endpoint that others run: tried until they are answered or a deadline passes, so many at a time."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flex_judge.judges.errors import AccessError, EngineLostError, UsageError
from flex_judge.reward.client.retry import Backoff, parse_retry_after
from flex_judge.reward.client.transport import CONNECT_TIMEOUT_S, MAX_RETRY_S, TRANSIENT_STATUSES, describe_no_response

if TYPE_CHECKING:
    import httpx

FIRST_RETRY_S = 0.5
HEALTH_TIMEOUT_S = 10.0


def normalize_base_url(url: str) -> str:
    """The address that paths are added to: what was given, or with `/v1` where it has no path.

    Raises:
        UsageError: it is no such address. It is not repeated, because it may hold a key.
    """
    try:
        parts = urlsplit(url.rstrip("/"))
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username is not None or parts.query or parts.fragment:
        raise UsageError("url: expected http(s)://HOST[:PORT][/PATH], such as http://10.0.0.1:8000/v1, without a key")
    return parts.geturl() if parts.path else f"{parts.geturl()}/v1"


class Endpoint:
    """Connections to one endpoint. Belongs to the event loop in which it is made."""

    def __init__(self, url: str, key: str | None, attempt_s: float, deadline_s: float, concurrency: int) -> None:
        """
        Args:
            url: see `base_of`.
            attempt_s: seconds without an answer after which a request is repeated.
            deadline_s: seconds for a request with all its tries and waits, from when its turn has come.
            concurrency: requests under way at a time; others wait for their turn.
        """
        import httpx

        self.loop = asyncio.get_running_loop()
        self._url, self._key, self._deadline_s = url, key, deadline_s
        self._room = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(attempt_s, connect=min(CONNECT_TIMEOUT_S, attempt_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=concurrency),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """The JSON that a request is answered with.

        Raises:
            UsageError: the endpoint refuses the request, for which it gives its reason; AccessError: it wants a key.
            EngineLostError: there was no answer before the deadline, or none but that it is overloaded or broken.
        """
        import httpx

        content = json.dumps(body).encode()
        backoff, problem = Backoff(FIRST_RETRY_S, MAX_RETRY_S), ""
        async with self._room:
            deadline = self.loop.time() + self._deadline_s
            while True:
                wait_s = 0.0
                try:
                    async with asyncio.timeout_at(deadline):
                        answer = await self._http.post(
                            self._url + path, content=content, headers={"Content-Type": "application/json"}
                        )
                except httpx.RequestError as e:
                    problem = describe_no_response(e)
                except TimeoutError as e:  # of a try that was cut short, what was wrong before says more
                    raise self._make_lost_error(problem or describe_no_response(e)) from e
                else:
                    if answer.is_success:
                        return self._parse_json(answer)
                    if answer.status_code not in TRANSIENT_STATUSES:
                        raise self._make_error(answer)
                    problem = f"{answer.status_code}: {self._summarize_error(answer)}"
                    wait_s = parse_retry_after(answer.headers.get("Retry-After"))
                pause = backoff.next_delay(wait_s)
                if self.loop.time() + pause >= deadline:
                    raise self._make_lost_error(problem)
                await asyncio.sleep(pause)

    async def check_health(self) -> None:
        """Raise EngineLostError unless the endpoint answers, whatever it says: not all of them list their models."""
        import httpx

        try:
            answer = await self._http.get(f"{self._url}/models", timeout=HEALTH_TIMEOUT_S)
        except httpx.RequestError as e:
            raise EngineLostError(f"{self._url}: {describe_no_response(e)}; see whether the endpoint runs there") from e
        if answer.status_code >= 500:
            raise EngineLostError(f"{self._url}: {answer.status_code}: {self._summarize_error(answer)}")

    def _parse_json(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as e:
            raise UsageError(
                f"{self._url}: expected JSON, got {self._summarize_error(answer)!r:.80}; is this the address of an "
                "OpenAI-compatible endpoint?"
            ) from e

    def _make_error(self, answer: httpx.Response) -> UsageError:
        line, status = self._summarize_error(answer), answer.status_code
        if status in (401, 403):
            return AccessError(f"{self._url}: {status}: {line}; give its key as api_key: env:NAME, or a file")
        if status == 404:
            return AccessError(f"{self._url}: 404: {line}; are the address and the name of the model right?")
        return UsageError(f"{self._url}: {status}: {line}")

    def _summarize_error(self, answer: httpx.Response) -> str:
        """What is wrong, in the endpoint's own words but for the key, which some repeat."""
        text = " ".join(_extract_message(answer).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text[:500] or answer.reason_phrase

    def _make_lost_error(self, problem: str) -> EngineLostError:
        return EngineLostError(f"{self._url}: no completion within {self._deadline_s:g} s; last problem: {problem}")


def _extract_message(answer: httpx.Response) -> str:
    """The message of an error: OpenAI's servers have it in `error.message`, others in one of several places."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text
    while isinstance(body, dict):
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), answer.text)
    return body if isinstance(body, str) else answer.text
