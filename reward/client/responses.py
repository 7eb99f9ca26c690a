"""Responses of a judge service: their JSON, and the errors that they stand for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flex_judge.judges.concurrency import await_in_background, run_in_background
from flex_judge.judges.errors import (
    AccessError,
    AdapterError,
    IncompatibleVersionError,
    JudgeError,
    MediaError,
    RequestTooLargeError,
    SleepError,
    UsageError,
    to_one_line,
)
from flex_judge.reward.wire import WIRE_HEADER, check_service_version

if TYPE_CHECKING:
    import httpx

Body = Mapping[str, Any] | None
"""JSON object of a request; None if it has no body."""
ADAPTERS_PATH, SLEEP_PATH, WAKE_PATH = "/v1/adapters", "/v1/sleep", "/v1/wake"


def parse_error(response: httpx.Response) -> str | None:
    """Parse the error message of a judge service; None if the response comes from another program."""
    error = (_read_object(response) or {}).get("error")
    return error if isinstance(error, str) else None


def describe_response(response: httpx.Response) -> str:
    """Describe a response in one line: its error message, or its text."""
    text = parse_error(response) or response.text
    # One bounded line: the text may be the HTML error page of a proxy.
    return to_one_line(text)[:500] or response.reason_phrase


def parse_object(response: httpx.Response) -> dict[str, Any]:
    """Parse a JSON object, or raise UsageError if the response is anything else."""
    body = _read_object(response)
    if body is None:
        text = describe_response(response)
        raise UsageError(f"{response.url}: expected a JSON object, got {text!r:.80}; is this a judge service?")
    return body


def check_version(url: str, response: httpx.Response) -> None:
    """Raise IncompatibleVersionError if the service has another major version of the wire format.

    The service's own error says the same in its words, so it comes first.
    """
    if response.status_code == 400 and (_read_object(response) or {}).get("wire_version"):
        raise IncompatibleVersionError(f"{url}: {describe_response(response)}")
    check_service_version(response.headers.get(WIRE_HEADER), url)


def build_error(url: str, response: httpx.Response, method: str, path: str) -> JudgeError:
    """Build the error for a response that a retry would not change."""
    line, status = describe_response(response), response.status_code
    if status in (401, 403):
        return AccessError(f"{url}: {line}; pass the key as api_key or set FLEX_JUDGE_API_KEY")
    if status == 413:
        return RequestTooLargeError(f"{url}: {line}; send fewer items per request (chunk), or raise the service limits")
    if status == 422 and path.startswith(ADAPTERS_PATH):
        return AdapterError(line)
    if status == 422 and path in (SLEEP_PATH, WAKE_PATH):
        return SleepError(line)
    if status in (400, 422):
        return MediaError(line) if method == "PUT" else UsageError(line)
    return UsageError(f"{url} answered {status} to {method} {path}: {line}; is this the address of a judge service?")


class DescriptionMethods(ABC):
    """Methods of a client that read what a service says about itself, and that change its state: adapter and sleep."""

    async def rubrics(self) -> list[dict[str, Any]]:
        """Request the rubrics of the service: name, kind, scale, number of responses, digest.

        Raises:
            UsageError: the service rejects the key, or has another version.
            ServiceUnavailableError: no response within ten seconds.
        """
        return list((await await_in_background(self._request_description("/v1/rubrics")))["rubrics"])

    async def models(self) -> list[str]:
        """Request the names of the service's models, see `rubrics` for the errors."""
        response = await await_in_background(self._request_description("/v1/models"))
        return [model["id"] for model in response["data"]]

    async def version(self) -> dict[str, Any]:
        """Request the versions of the service's package, wire format and ledger, see `rubrics` for the errors."""
        return await await_in_background(self._request_description("/version"))

    async def adapters(self) -> list[dict[str, Any]]:
        """Request the judge's adapter: name, fingerprint, model, Unix time; see `rubrics` for the errors."""
        return list((await await_in_background(self._request_description(ADAPTERS_PATH)))["adapters"])

    async def load_adapter(self, name: str, path: str) -> dict[str, Any]:
        """Replace the judge's LoRA adapter on all replicas. Judgments in progress finish with the earlier one.

        Args:
            name: name of the adapter in judgments.
            path: its folder where the replicas are, inside of the folder of `--allow-adapter-updates`: absolute, or
                relative to that folder. Give each version a folder of its own.

        Returns:
            The adapter that judges all later requests: name, fingerprint, model, Unix time.

        Raises:
            AdapterError: the service allows no other adapters, or a replica cannot load it; all keep the earlier one.
            ServiceUnavailableError: no response within `deadline_s`.
        """
        return await await_in_background(self._request_description(_build_adapter_path(name), {"path": path}))

    async def sleep(self, level: int = 1) -> int:
        """Free the judge's memory on all replicas; all accepted requests are answered first.

        Requests for judgments are refused until `wake`; clients repeat them until their `deadline_s`.

        Args:
            level: 1 keeps the weights in the machines' memory, 2 discards them and reads their files again on waking.

        Returns:
            The level at which the judge sleeps: the earlier one if it slept already.

        Raises:
            SleepError: the service allows no sleep, or a replica cannot sleep; all are awake then.
            ServiceUnavailableError: no response within `deadline_s`.
        """
        response = await await_in_background(self._request_description(SLEEP_PATH, {"level": level}, "POST"))
        return int(response["level"])

    async def wake(self) -> None:
        """Wake the judge on all replicas, and wait until they can judge.

        Raises:
            SleepError: the service allows no sleep, or a replica cannot wake; all sleep then.
            ServiceUnavailableError: no response within `deadline_s`.
        """
        await await_in_background(self._request_description(WAKE_PATH, {}, "POST"))

    def sleep_sync(self, level: int = 1) -> int:
        """Free the judge's memory from code without an event loop, see `sleep`."""
        return int(run_in_background(self._request_description(SLEEP_PATH, {"level": level}, "POST"))["level"])

    def wake_sync(self) -> None:
        """Wake the judge from code without an event loop, see `wake`."""
        run_in_background(self._request_description(WAKE_PATH, {}, "POST"))

    def adapters_sync(self) -> list[dict[str, Any]]:
        """Request the judge's adapter from code without an event loop, see `adapters`."""
        return list(run_in_background(self._request_description(ADAPTERS_PATH))["adapters"])

    def load_adapter_sync(self, name: str, path: str) -> dict[str, Any]:
        """Replace the judge's adapter from code without an event loop, see `load_adapter`."""
        return run_in_background(self._request_description(_build_adapter_path(name), {"path": path}))

    def rubrics_sync(self) -> list[dict[str, Any]]:
        """Request the rubrics from code without an event loop, see `rubrics`."""
        return list(run_in_background(self._request_description("/v1/rubrics"))["rubrics"])

    def models_sync(self) -> list[str]:
        """Request the model names from code without an event loop, see `models`."""
        return [model["id"] for model in run_in_background(self._request_description("/v1/models"))["data"]]

    def version_sync(self) -> dict[str, Any]:
        """Request the versions from code without an event loop, see `version`."""
        return run_in_background(self._request_description("/version"))

    @abstractmethod
    async def _request_description(self, path: str, body: Body = None, method: str = "PUT") -> dict[str, Any]:
        """Request the JSON object of a route with GET, or with another method if there is a body."""


def _build_adapter_path(name: str) -> str:
    return f"{ADAPTERS_PATH}/{quote(name, safe='')}"


def _read_object(response: httpx.Response) -> dict[str, Any] | None:
    """Parse the body; None if it is not a JSON object."""
    try:
        body = response.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
