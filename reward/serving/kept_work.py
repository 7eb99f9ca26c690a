"""Work that outlives the gateway: answers and judgments, so that a retry after its death computes nothing twice.

`KeptWork` is a deployment of its own. Replicas record what they judge, the gateway records its answers. A new gateway
asks what the earlier one has left.
"""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.server.idempotency import MAX_ANSWERS_BYTES, AnswerArchive, KeptAnswer
from flex_judge.reward.serving.adapters import AdapterBoard
from flex_judge.reward.serving.sleep import SleepBoard
from flex_judge.reward.serving.store_calls import call_store
from flex_judge.reward.serving.work_recorder import WorkEvent, WorkRecorder, compute_work_key

SILENT_S = 10.0
"""Seconds without a sign of life after which the running comparisons of a replica count as lost."""
LEFTOVERS_S = 15.0
"""Time limit of the first call of a new gateway, which may have to find the store first."""
LOOKUP_S = 2.0
"""Time limit of the question for one judgment, before its comparison is judged again."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Leftovers:
    """Work of earlier gateways."""

    comparisons: frozenset[str] = frozenset()
    """Keys of the comparisons that were judged, or are being judged."""
    answers: frozenset[str] = frozenset()
    """Keys of the answers."""


class KeptWork(AdapterBoard, SleepBoard):
    """Store of recent answers and judgments, bounded in time and memory. Holds no texts but as opaque bytes.

    It also holds the plan of the judge's adapters and the order to sleep, which must outlive the gateway too.
    """

    def __init__(self, retain_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Create an empty store.

        Args:
            retain_s: seconds that an answer or a judgment is kept.
            clock: monotonic clock in seconds.
        """
        AdapterBoard.__init__(self, clock)
        SleepBoard.__init__(self, clock)
        self._clock = clock
        self._judgments = _BoundedStore(retain_s, clock)
        self._answers = _BoundedStore(retain_s, clock)
        self._running: dict[str, str] = {}
        self._heard_at: dict[str, float] = {}
        self._change = asyncio.Event()

    async def record_events(self, writer: str, events: Sequence[WorkEvent]) -> None:
        """Record what happened at a replica or gateway, in order. No events are a sign of life."""
        self._heard_at[writer] = self._clock()
        for event in events:
            if event.fingerprint is not None:
                self._answers.put(event.key, (event.fingerprint, event.content or b""))
            elif event.has_started:
                self._running[event.key] = writer
            else:
                self._running.pop(event.key, None)
                if event.content is not None:
                    self._judgments.put(event.key, ("", event.content))
        self._change.set()
        self._change = asyncio.Event()

    async def list_leftovers(self) -> Leftovers:
        """List the keys of all kept and running work."""
        self._forget_silent_replicas()
        return Leftovers(frozenset(self._running) | self._judgments.keys(), self._answers.keys())

    async def wait_for_judgment(self, key: str) -> bytes | None:
        """Return a judgment; wait for it while a replica works on it. None if it must be judged anew."""
        while True:
            judgment = self._judgments.get(key)
            if judgment is not None:
                return judgment[1]
            self._forget_silent_replicas()
            if key not in self._running:
                return None
            try:
                await asyncio.wait_for(self._change.wait(), SILENT_S)
            except TimeoutError:
                continue

    async def get_judgment(self, key: str, max_age_s: float) -> bytes | None:
        """Return a judgment that was recorded within the last seconds; None without one."""
        judgment = self._judgments.get(key, max_age_s)
        return None if judgment is None else judgment[1]

    async def get_answer(self, key: str) -> tuple[str, bytes] | None:
        """Return the fingerprint and content of an answer; None if it is not kept."""
        return self._answers.get(key)

    def _forget_silent_replicas(self) -> None:
        silent = {writer for writer, heard_at in self._heard_at.items() if heard_at + SILENT_S < self._clock()}
        if silent:
            self._running = {key: writer for key, writer in self._running.items() if writer not in silent}
            for writer in silent:
                del self._heard_at[writer]


class _BoundedStore:
    """Values by key; the oldest are dropped when they are too old, or all are too large together."""

    def __init__(self, retain_s: float, clock: Callable[[], float]) -> None:
        self._retain_s = retain_s
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, tuple[str, bytes]]] = OrderedDict()
        self._bytes = 0

    def put(self, key: str, value: tuple[str, bytes]) -> None:
        self._drop(key)
        self._values[key] = self._clock(), value
        self._bytes += len(value[1])
        self._evict()

    def get(self, key: str, max_age_s: float = math.inf) -> tuple[str, bytes] | None:
        self._evict()
        if key not in self._values:
            return None
        stored_at, value = self._values[key]
        return value if stored_at + max_age_s >= self._clock() else None

    def keys(self) -> frozenset[str]:
        self._evict()
        return frozenset(self._values)

    def _evict(self) -> None:
        while self._values:
            key, (stored_at, _) = next(iter(self._values.items()))
            if self._bytes <= MAX_ANSWERS_BYTES and stored_at + self._retain_s > self._clock():
                return
            self._drop(key)

    def _drop(self, key: str) -> None:
        if key in self._values:
            self._bytes -= len(self._values.pop(key)[1][1])


class WorkArchive(AnswerArchive):
    """Work of the earlier gateways of a service, for the present one. Belongs to one event loop."""

    def __init__(
        self,
        store: Any,
        scope: str,
        judge: Callable[[Comparison], Awaitable[Judgment]],
        get_adapter: Callable[[], str] = lambda: "",
    ) -> None:
        """Create the archive of a gateway.

        Args:
            store: handle of the deployment `KeptWork`.
            scope: key of the judge's settings; work of another judge does not count.
            judge: judges a comparison that earlier gateways have not left.
            get_adapter: returns the key of the adapter for a judgment; judgments with another one do not count.
        """
        self._store, self._scope, self._judge = store, scope, judge
        self._get_adapter = get_adapter
        self._recorder = WorkRecorder(store, f"gateway {uuid.uuid4().hex}")
        self._leftovers: asyncio.Task[Leftovers] | None = None

    async def judge(self, comparison: Comparison) -> Judgment:
        """Judge a comparison, unless a replica has judged it for an earlier gateway or is about to."""
        leftovers = (await self._load_leftovers()).comparisons
        # The first gateway finds nothing, and need not hash every comparison with its media.
        if not leftovers:
            return await self._judge(comparison)
        key = compute_work_key(self._scope, comparison.digest, self._get_adapter())
        if key in leftovers:
            content = await self._ask(self._store.wait_for_judgment, key)
            if content is not None:
                return _read_judgment(content, comparison)
        return await self._judge(comparison)

    async def find_answer(self, key: str) -> KeptAnswer | None:
        """Return the answer of an earlier gateway to the request with an idempotency key."""
        key = compute_work_key(self._scope, key)
        if key not in (await self._load_leftovers()).answers:
            return None
        answer = await self._ask(self._store.get_answer, key)
        return None if answer is None else KeptAnswer(*answer)

    async def keep_answer(self, key: str, answer: KeptAnswer) -> None:
        """Keep an answer for later gateways."""
        await self._recorder.record_answer(compute_work_key(self._scope, key), answer)

    async def _load_leftovers(self) -> Leftovers:
        if self._leftovers is None:
            self._leftovers = asyncio.create_task(self._request_leftovers())
        return await asyncio.shield(self._leftovers)

    async def _request_leftovers(self) -> Leftovers:
        try:
            leftovers: Leftovers = await asyncio.wait_for(call_store(self._store.list_leftovers), LEFTOVERS_S)
        except Exception as error:  # noqa: BLE001 - the service works without the store
            log.warning("the work of an earlier gateway is not available: %r", error)
            return Leftovers()
        return leftovers

    async def _ask(self, method: Any, *args: Any) -> Any:
        """Call the store; None if it is away."""
        try:
            return await call_store(method, *args)
        except Exception as error:  # noqa: BLE001 - as above; the work is then done again
            log.warning("the work of an earlier gateway is not available: %r", error)
            return None


async def find_recent_judgment(
    store: Any, scope: str, comparison: Comparison, max_age_s: float, adapter: str = ""
) -> Judgment | None:
    """Find the judgment of a comparison whose replica died between judging it and answering.

    Args:
        store: handle of the deployment `KeptWork`.
        scope: hash of the judge's configuration.
        comparison: the comparison.
        max_age_s: seconds since it was sent; earlier judgments are not used.
        adapter: key of the adapter.

    Returns:
        The judgment; None if there is none, or the store is away.
    """
    key = compute_work_key(scope, comparison.digest, adapter)
    try:
        content = await asyncio.wait_for(call_store(store.get_judgment, key, max_age_s), LOOKUP_S)
    except Exception as error:  # noqa: BLE001 - the comparison is then judged again
        log.warning("the store of finished judgments is not available: %r", error)
        return None
    return None if content is None else _read_judgment(content, comparison)


def _read_judgment(content: bytes, comparison: Comparison) -> Judgment:
    judgment: Judgment = pickle.loads(content)  # written by a replica of this service
    return replace(judgment, id=comparison.id)
