"""Recording of work at the store `KeptWork`, from replicas and gateways."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import pickle
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.reward.server.idempotency import KeptAnswer
from flex_judge.reward.serving.store_calls import call_store

BEAT_S = 2.0
"""Seconds between two signs of life of a replica that judges."""
CALL_S = 5.0
"""Time limit of a call that writes to the store. The service works without the store."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkEvent:
    """Start or end of a comparison, or an answer."""

    key: str
    content: bytes | None = None
    """Judgment or answer; None for a start, and for a comparison that ended without a judgment."""
    has_started: bool = False
    fingerprint: str | None = None
    """Hash of the request of an answer."""


class WorkRecorder:
    """Writer of events to the store: never waits for it, and sends what has accumulated in one call.

    Belongs to one event loop. The store may be away: events are then lost, and logged once.
    """

    def __init__(self, store: Any, writer: str) -> None:
        """Create a recorder.

        Args:
            store: handle of the deployment `KeptWork`.
            writer: unique name of this replica or gateway.
        """
        self._store, self._writer = store, writer
        self._events: list[WorkEvent] = []
        self._running: set[str] = set()
        self._has_events = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stored: asyncio.Future[None] | None = None
        self._is_failing = False

    def record_start(self, key: str) -> None:
        """Record that a comparison is being judged."""
        self._running.add(key)
        self._append_event(WorkEvent(key, has_started=True))

    def record_end(self, key: str, judgment: Judgment | None) -> None:
        """Record a judgment, or None if the comparison ended without one."""
        self._running.discard(key)
        self._append_event(WorkEvent(key, None if judgment is None else pickle.dumps(judgment)))

    async def record_answer(self, key: str, answer: KeptAnswer) -> None:
        """Record an answer, and wait until the store has it or is found to be away."""
        await self._append_event(WorkEvent(key, answer.content, fingerprint=answer.fingerprint))

    def _append_event(self, event: WorkEvent) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        self._stored = self._stored or loop.create_future()
        self._events.append(event)
        self._has_events.set()
        if self._task is None:
            self._task = loop.create_task(self._send_events())
        return self._stored

    async def _send_events(self) -> None:
        """Send all events, then a sign of life every few seconds, until nothing is left and nothing runs."""
        while self._events or self._running:
            events, self._events = self._events, []
            stored, self._stored = self._stored, None
            self._has_events.clear()
            try:
                await asyncio.wait_for(call_store(self._store.record_events, self._writer, events), CALL_S)
                self._is_failing = False
            except Exception as error:  # noqa: BLE001 - a judgment must not fail because of the store
                if not self._is_failing:
                    log.warning("answers are not kept for retries after a death of the gateway: %r", error)
                self._is_failing = True
            if stored is not None and not stored.done():
                stored.set_result(None)
            if self._running and not self._events:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._has_events.wait(), BEAT_S)
        self._task = None


def compute_work_scope(config: JudgeConfig) -> str:
    """Hash the configuration of a judge: work of another one, before an update of the service, does not count."""
    return hashlib.sha256(repr(config).encode()).hexdigest()


def compute_work_key(scope: str, name: str, adapter: str = "") -> str:
    """Hash the name of a piece of work; the store never sees a client's idempotency key.

    Args:
        scope: hash of the judge's configuration.
        name: idempotency key, or digest of a comparison.
        adapter: key of the adapter that replaced the one of the start, see `AdapterVersion.key`.
    """
    return hashlib.sha256(f"{scope} {adapter} {name}".encode()).hexdigest()
