"""HTTP client of a judge service: small and picklable, without torch, Ray or a GPU, for the trainer's process."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from flex_judge.judges.concurrency import await_in_background, gather_all, run_in_background
from flex_judge.judges.errors import ServiceTimeoutError, ServiceUnavailableError, UsageError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Comparison
from flex_judge.reward.client.encoding import (
    Batch,
    InvalidItem,
    ItemRow,
    build_judgment,
    build_reward,
    describe_problem,
    encode_comparison,
    encode_rubric,
    encode_sample,
    is_judged,
    split_into_batches,
)
from flex_judge.reward.client.responses import Body, DescriptionMethods
from flex_judge.reward.client.retry import MediaRejectedError, NoResponseError
from flex_judge.reward.client.transport import Connection
from flex_judge.reward.turns import TurnMethods
from flex_judge.reward.types import Reward, RewardSpec, Sample

KEY_VARIABLE, URL_VARIABLE = "FLEX_JUDGE_API_KEY", "FLEX_JUDGE_URL"
"""Environment variables with the key and the address of the service; only some trainers' adapters read the latter."""
HEALTH_TIMEOUT_S = 10.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class JudgeClient(DescriptionMethods, TurnMethods):
    """HTTP client of a judge service.

    A client holds settings only; connections belong to the process. It can be pickled, forked, and used from any
    thread and event loop. Equal clients share their connections and concurrency limits.

    Example:
        >>> client = JudgeClient("http://127.0.0.1:8000")
        >>> client.judge_sync([Comparison.of("What is 2 + 3?", "It is 5.")])[0].scores
    """

    url: str
    """Base URL of the service, such as `http://10.0.0.1:8000`."""
    api_key: str | None = field(default=None, repr=False)
    """API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY, if it is set."""
    deadline_s: float = 600.0
    """Time limit of a call in seconds, including all retries and waits. The service gets a slightly shorter limit, so
    that finished results arrive in time; the others get the status timeout."""
    concurrency: int = 8
    """Maximum number of concurrent requests of this process."""
    chunk: int = 64
    """Maximum number of items in one request. Items of one prompt are never split, so a request may hold more."""
    waiting: int = 1024
    """Maximum number of concurrent requests whose completions wait for other members of their group. They do not count
    against `concurrency`: a group must not wait for a slot that its own members occupy."""
    attempt_s: float = 120.0
    """Seconds without a response after which a request is repeated; its idempotency key prevents a second judgment."""
    retry_s: float = 0.5
    """Upper bound of the first retry delay, in seconds; it doubles with each further retry."""
    probe_s: float = 30.0
    """After a call without any result, the next call first waits up to this many seconds for the service to be healthy
    again."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url must begin with http:// or https://, not {self.url!r}")
        # The dataclass is frozen. Without the slash, equal addresses make equal clients, which share connections.
        object.__setattr__(self, "url", self.url.rstrip("/"))
        if self.api_key is not None:
            _check_key(self.api_key, "api_key")
        for name in ("deadline_s", "attempt_s", "retry_s", "probe_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be seconds above 0, not {getattr(self, name)}")
        for name in ("concurrency", "chunk", "waiting"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")

    async def judge(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        """Judge comparisons.

        Returns:
            The judgments in the order of the comparisons. One that was not ready in time has the status `timeout`, one
            that cannot be judged (a medium, an unknown rubric) has the status `invalid_input`.

        Raises:
            UsageError: the service rejects the key (AccessError), the size (RequestTooLargeError), or the settings.
            ServiceTimeoutError: there was no response at all within the deadline.
            ServiceUnavailableError: the calls before this one had no response either.
        """
        return await await_in_background(self._request_judgments(comparisons))

    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec | None = None) -> list[Reward]:
        """Compute the rewards of samples.

        Returns:
            The rewards in the order of the samples.

        Raises:
            JudgeError: the same errors as `judge`.
        """
        return await await_in_background(self._request_rewards(samples, spec or RewardSpec()))

    async def health(self) -> dict[str, Any]:
        """Request the health report of the service.

        Raises:
            ServiceUnavailableError: no response within ten seconds, or the service is starting or draining.
        """
        return await await_in_background(self._request_health())

    def judge_sync(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        """Judge comparisons from code without an event loop, see `judge`."""
        return run_in_background(self._request_judgments(comparisons))

    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec | None = None) -> list[Reward]:
        """Compute rewards from code without an event loop, see `rewards`."""
        return run_in_background(self._request_rewards(samples, spec or RewardSpec()))

    def health_sync(self) -> dict[str, Any]:
        """Request the health report from code without an event loop, see `health`."""
        return run_in_background(self._request_health())

    def close(self) -> None:
        """Close the connections of this process. The next call opens new ones."""
        run_in_background(self._close_connection())

    async def _request_judgments(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        batches = split_into_batches([comparison.prompt_digest for comparison in comparisons], self.chunk)
        template = _RequestTemplate(
            "/v1/judge", "comparisons", "judgments", lambda i: encode_comparison(comparisons[i])
        )
        rows = await self._send_batches(template, batches)
        return [
            self._decode_row(partial(build_judgment, comparison.id, row))
            for comparison, row in zip(comparisons, rows, strict=True)
        ]

    async def _request_rewards(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        group_size = spec.group_size if spec.needs_group else None
        if group_size is not None and spec.group_timeout_s >= self.deadline_s:
            raise UsageError(
                f"group_timeout_s of {spec.group_timeout_s:g} s must be below the deadline_s of {self.deadline_s:g} s: "
                "an incomplete group is judged only after it"
            )
        batches = split_into_batches([spec.compute_group_id(sample) for sample in samples], self.chunk, group_size)
        template = _RequestTemplate(
            "/v1/rewards",
            "samples",
            "rewards",
            lambda i: encode_sample(samples[i]),
            {**spec.to_json(), "rubric": encode_rubric(spec.rubric)},
            # Without its response, but a present member of its group, for which nobody waits.
            lambda i, problem: encode_sample(replace(samples[i], response="", baseline=None, problem=problem)),
        )
        rows = await self._send_batches(template, batches)
        return [self._decode_row(partial(build_reward, row)) for row in rows]

    def _decode_row(self, decode: Callable[[], Result]) -> Result:
        try:
            return decode()
        except UsageError as e:
            raise UsageError(f"{self.url}: {e}; client and service must have the same version") from e

    async def _send_batches(self, template: _RequestTemplate, batches: Sequence[Batch]) -> list[ItemRow]:
        """Send all requests of a call concurrently and collect the row of each item."""
        if not batches:
            return []
        connection = self._get_connection()
        circuit = connection.circuit
        clock = connection.loop.time
        started = clock()
        if circuit.is_open:
            await connection.wait_until_healthy(self.probe_s)
        # The deadline starts after the probe, so that a recovered service has the full time.
        deadline = clock() + self.deadline_s
        responses = await gather_all(self._send_batch(template, batch, connection, deadline) for batch in batches)
        row_by_index: dict[int, ItemRow] = {}
        for batch, batch_rows in zip(batches, responses, strict=True):
            row_by_index.update(zip(batch.indices, batch_rows, strict=True))
        rows = [row_by_index[i] for i in range(len(row_by_index))]
        if any(is_judged(row) for row in rows):
            circuit.record_success()
            return rows
        silent = all(isinstance(row, str) for row in rows)
        problem = describe_problem(next((row for row in rows if isinstance(row, str)), rows[0]))
        if circuit.record_failure(started, problem, silent):
            raise ServiceUnavailableError(circuit.describe_outage())
        if silent:
            raise ServiceTimeoutError(f"{self.url}: no answer within {self.deadline_s:g} s; last problem: {problem}")
        return rows

    async def _send_batch(
        self, template: _RequestTemplate, batch: Batch, connection: Connection, deadline: float
    ) -> Sequence[ItemRow]:
        """Send one request and return the row of each of its items."""
        encoded = {i: template.encode_item(i) for i in batch.indices}
        invalid: dict[int, InvalidItem] = {}
        while encoded:
            media = {digest: medium for _, media in encoded.values() for digest, medium in media.items()}
            body = {**template.settings, template.items_field: [row for row, _ in encoded.values()]}
            try:
                async with connection.reserve_slot(batch.waits, deadline):
                    response = await connection.post(template.path, body, media, deadline)
                break
            except NoResponseError as e:
                return [invalid.get(i, str(e)) for i in batch.indices]
            except MediaRejectedError as e:
                for i, (_, item_media) in list(encoded.items()):
                    problem = next((e.problems[digest] for digest in item_media if digest in e.problems), None)
                    if problem is not None:
                        del encoded[i]
                        invalid[i] = InvalidItem(problem)
                        member = template.encode_invalid(i, problem) if template.encode_invalid else None
                        if member and e.problems.keys().isdisjoint(member[1]):
                            encoded[i] = member
        else:
            return [invalid[i] for i in batch.indices]
        rows = response.get(template.results_field)
        has_rows = isinstance(rows, list) and all(isinstance(row, dict) and "status" in row for row in rows)
        if not isinstance(rows, list) or not has_rows or len(rows) != len(encoded):
            expected = f"{len(encoded)} {template.results_field}"
            raise UsageError(
                f"{self.url}: expected {expected} from {template.path}; client and service must have the same version"
            )
        row_by_index = {**invalid, **dict(zip(encoded, rows, strict=True))}
        return [row_by_index[i] for i in batch.indices]

    async def _request_description(self, path: str, body: Body = None, method: str = "PUT") -> dict[str, Any]:
        connection = self._get_connection()
        now = connection.loop.time()
        try:
            if body is not None:
                return await connection.change_state(method, path, body, now + self.deadline_s)
            return await connection.get(path, now + min(HEALTH_TIMEOUT_S, self.deadline_s))
        except NoResponseError as e:
            raise ServiceUnavailableError(f"{self.url}: {e}; check that the judge service runs there") from e

    async def _request_health(self) -> dict[str, Any]:
        connection = self._get_connection()
        try:
            return await connection.get_health(connection.loop.time() + min(HEALTH_TIMEOUT_S, self.deadline_s))
        except NoResponseError as e:
            raise ServiceUnavailableError(f"{self.url}: {e}; check that the judge service runs there") from e

    def _get_connection(self) -> Connection:
        """Return this process's connection, opened on first use. Call only in the background event loop."""
        connection = _connections.get(self)
        # After a fork, the inherited connection belongs to the parent's event loop and sockets.
        if connection is None or connection.loop is not asyncio.get_running_loop():
            key = self.api_key or os.environ.get(KEY_VARIABLE, "").strip()
            if key:  # a service without a key needs none
                _check_key(key, KEY_VARIABLE)
            limits = self.attempt_s, self.retry_s, self.concurrency, self.waiting
            connection = _connections[self] = Connection(self.url, key, *limits)
        return connection

    async def _close_connection(self) -> None:
        connection = _connections.pop(self, None)
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.close()


@dataclass(frozen=True)
class _RequestTemplate:
    """Route, field names and items of the requests of one call."""

    path: str
    items_field: str
    """Name of the list of items in the request."""
    results_field: str
    """Name of the list of results in the response."""
    encode_item: Callable[[int], tuple[dict[str, Any], dict[str, Media]]]
    """Encode the item at an index; returns its JSON and the media that it references, by digest."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the request."""
    encode_invalid: Callable[[int, str], tuple[dict[str, Any], dict[str, Media]]] | None = None
    """Encode the item at an index as one that cannot be judged, with the reason; None leaves it out of the request."""


def _check_key(key: str, name: str) -> None:
    """Raise UsageError if a key cannot be sent in a header; the message does not repeat the key."""
    if not re.fullmatch(r"[!-~]+", key):
        raise UsageError(f"{name} must be one or more ASCII characters without white space")


_connections: dict[JudgeClient, Connection] = {}
