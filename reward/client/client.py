"""The client of a judge service: small, picklable, and without torch, Ray or a GPU, for the process that trains."""

from __future__ import annotations

import asyncio
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from flex_judge.judges.concurrency import await_in_background, gather_all, run_in_background
from flex_judge.judges.errors import ServiceTimeoutError, ServiceUnavailableError, UsageError
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Comparison
from flex_judge.reward.client.encoding import Batch, encode_comparison, encode_sample, split_into_batches
from flex_judge.reward.client.transport import Connection, NoResponseError
from flex_judge.reward.types import Reward, RewardSpec, Sample

KEY_VARIABLE = "FLEX_JUDGE_API_KEY"
HEALTH_TIMEOUT_S = 10.0
Row = dict[str, Any] | str
"""What the service says of an item; for one without an answer, what was wrong."""


@dataclass(frozen=True)
class JudgeClient:
    """Asks a judge service over HTTP. Plain settings: what is connected belongs to the process, so a client may be
    pickled, forked, and used from any thread and event loop; equal clients share their connections and limits.

    Example:
        >>> client = JudgeClient("http://127.0.0.1:8000")
        >>> client.judge_sync([Comparison.of("What is 2 + 3?", "It is 5.")])[0].scores
    """

    url: str
    """Where the service is, such as `http://10.0.0.1:8000`."""
    api_key: str | None = field(default=None, repr=False)
    """The service's key; None takes the environment's FLEX_JUDGE_API_KEY, if there is one."""
    deadline_s: float = 600.0
    """Seconds that a call may take in all, tries and waits included. The service is told to be ready a little before,
    so what is ready by then comes back and the rest has status timeout."""
    concurrency: int = 8
    """Requests under way at a time in this process."""
    chunk: int = 64
    """Comparisons or completions in one request. What shares a prompt is never divided, so it may be more."""
    waiting: int = 1024
    """Requests under way at a time whose completions wait for others of their group. They are not counted in
    `concurrency`: a group must not wait for a place that its own members hold."""
    attempt_s: float = 120.0
    """Seconds without an answer after which a request is repeated; it is not judged twice, as it has a key."""
    retry_s: float = 0.5
    """The first wait between tries is up to this long, each further one up to twice as long as that before."""
    probe_s: float = 30.0
    """After a call that brought nothing, the next one first waits up to this long for the service to be well again."""

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url must begin with http:// or https://, not {self.url!r}")
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
        """Judgments in the same order.

        Raises:
            UsageError: the service refuses a comparison, the key (AccessError), or the size (RequestTooLargeError).
            ServiceTimeoutError: there was no answer at all within the deadline.
            ServiceUnavailableError: nor was there one in the calls before.
        """
        return await await_in_background(self._request_judgments(comparisons))

    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec | None = None) -> list[Reward]:
        """Rewards in the same order. Raises what `judge` raises."""
        return await await_in_background(self._request_rewards(samples, spec or RewardSpec()))

    async def health(self) -> dict[str, Any]:
        """What the service says of itself.

        Raises:
            ServiceUnavailableError: it gives no answer within ten seconds, or is starting or draining.
        """
        return await await_in_background(self._request_health())

    def judge_sync(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        """As `judge`, for a caller that does not await."""
        return run_in_background(self._request_judgments(comparisons))

    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec | None = None) -> list[Reward]:
        """As `rewards`, for a caller that does not await."""
        return run_in_background(self._request_rewards(samples, spec or RewardSpec()))

    def health_sync(self) -> dict[str, Any]:
        """As `health`, for a caller that does not await."""
        return run_in_background(self._request_health())

    def close(self) -> None:
        """Close what this process has connected. The next call connects again."""
        run_in_background(self._close_connection())

    async def _request_judgments(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        def unanswered(i: int, problem: str) -> Judgment:
            return Judgment.from_failure(comparisons[i].id, Status.TIMEOUT, problem)

        batches = split_into_batches([comparison.prompt_digest for comparison in comparisons], self.chunk)
        questions = _RequestTemplate(
            "/v1/judge", "comparisons", "judgments", lambda i: encode_comparison(comparisons[i])
        )
        rows = await self._send_batches(questions, batches)
        return [unanswered(i, row) if isinstance(row, str) else Judgment.from_json(row) for i, row in enumerate(rows)]

    async def _request_rewards(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        group_size = spec.group_size if spec.needs_group else None
        if group_size is not None and spec.group_timeout_s >= self.deadline_s:
            raise UsageError(
                f"group_timeout_s of {spec.group_timeout_s:g} s must be below the deadline_s of {self.deadline_s:g} s: "
                "an incomplete group is judged only after it"
            )
        batches = split_into_batches([spec.compute_group_id(sample) for sample in samples], self.chunk, group_size)
        questions = _RequestTemplate(
            "/v1/rewards", "samples", "rewards", lambda i: encode_sample(samples[i]), asdict(spec)
        )
        rows = await self._send_batches(questions, batches)
        return [
            Reward(None, Status.TIMEOUT, detail=row) if isinstance(row, str) else Reward.from_json(row) for row in rows
        ]

    async def _send_batches(self, questions: _RequestTemplate, batches: Sequence[Batch]) -> list[Row]:
        """The service's row for each item."""
        if not batches:
            return []
        connection = self._get_connection()
        circuit = connection.circuit
        clock = connection.loop.time
        started = clock()
        if circuit.is_open:
            await connection.wait_until_healthy(self.probe_s)
        deadline = clock() + self.deadline_s
        asks = [self._send_batch(questions, batch, connection, deadline) for batch in batches]
        found = {
            i: row
            for batch, rows in zip(batches, await gather_all(asks), strict=True)
            for i, row in zip(batch.at, rows, strict=True)
        }
        rows = [found[i] for i in range(len(found))]
        if any(_is_judged(row) for row in rows):
            circuit.record_success()
            return rows
        silent = all(isinstance(row, str) for row in rows)
        problem = _describe_problem(next((row for row in rows if isinstance(row, str)), rows[0]))
        if circuit.record_failure(started, problem, silent):
            raise ServiceUnavailableError(circuit.describe_outage())
        if silent:
            raise ServiceTimeoutError(f"{self.url}: no answer within {self.deadline_s:g} s; last problem: {problem}")
        return rows

    async def _send_batch(
        self, questions: _RequestTemplate, batch: Batch, connection: Connection, deadline: float
    ) -> Sequence[Row]:
        """Send one request. Returns the row of each of its items."""
        encoded = [questions.encoded(i) for i in batch.at]
        media = {digest: medium for _, media in encoded for digest, medium in media.items()}
        body = {**questions.rest, questions.asked: [row for row, _ in encoded]}
        try:
            async with connection.reserve_slot(batch.waits, deadline):
                rows = (await connection.post(questions.path, body, media, deadline)).get(questions.answered)
        except NoResponseError as e:
            return [str(e)] * len(batch.at)
        if not isinstance(rows, list) or len(rows) != len(batch.at):
            missing = f"{len(batch.at)} {questions.answered}"
            raise UsageError(f"{self.url}: expected {missing} from {questions.path}; is the service of this version?")
        return rows

    async def _request_health(self) -> dict[str, Any]:
        connection = self._get_connection()
        try:
            return await connection.get_health(connection.loop.time() + min(HEALTH_TIMEOUT_S, self.deadline_s))
        except NoResponseError as e:
            raise ServiceUnavailableError(f"{self.url}: {e}; see whether the judge service runs there") from e

    def _get_connection(self) -> Connection:
        """This process' connection; called in the background loop alone."""
        connection = _connections.get(self)
        if connection is None or connection.loop is not asyncio.get_running_loop():  # after a fork it is the parent's
            key = self.api_key or os.environ.get(KEY_VARIABLE, "").strip()
            _check_key(key or "-", KEY_VARIABLE)
            limits = self.attempt_s, self.retry_s, self.concurrency, self.waiting
            connection = _connections[self] = Connection(self.url, key, *limits)
        return connection

    async def _close_connection(self) -> None:
        connection = _connections.pop(self, None)
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.close()


@dataclass(frozen=True)
class _RequestTemplate:
    """What a call asks, by number, and where."""

    path: str
    asked: str
    """Name of the items in the request."""
    answered: str
    """Name of their rows in the answer."""
    encoded: Callable[[int], tuple[dict[str, Any], dict[str, Media]]]
    """An item as JSON, and the media that it refers to, by digest."""
    rest: Mapping[str, Any] = field(default_factory=dict)
    """What else is in the request."""


def _is_judged(row: Row) -> bool:
    """Whether the judge has said anything of the item, if only that it cannot."""
    return not isinstance(row, str) and (Status(row["status"]).is_final or row.get("score") is not None)


def _describe_problem(row: Row) -> str:
    """What was wrong with an item that was not judged."""
    if isinstance(row, str):
        return row
    details = [row.get("detail"), *(vote.get("detail") for vote in row.get("votes", ()))]
    return f"it answers, but with status {row['status']} alone: {next(filter(None, details), 'it does not say why')}"


def _check_key(key: str, name: str) -> None:
    """Raise UsageError for what cannot stand in a header; it is not repeated in the message."""
    if not re.fullmatch(r"[!-~]+", key):
        raise UsageError(f"{name} must be one or more ASCII characters without white space")


_connections: dict[JudgeClient, Connection] = {}
