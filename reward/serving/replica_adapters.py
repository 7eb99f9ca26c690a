"""Adapters of one replica: follows the board of the service, and keeps one judge for each adapter in use."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import AdapterError, to_one_line
from flex_judge.reward.server.adapters import START, AdapterVersion
from flex_judge.reward.serving.adapters import AdapterPlan, AdapterReport
from flex_judge.reward.serving.store_calls import CALL_S, WATCH_S, call_store

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge

log = logging.getLogger(__name__)


class ReplicaAdapters:
    """Judges of one replica: one per adapter, on the same engine. Belongs to one event loop."""

    def __init__(self, judge: FlexJudge, replica: str, store: Any = None, folder: str | None = None) -> None:
        """Create the judges of a replica, which loads further adapters in `start`.

        Args:
            judge: the judge with the adapter of the start.
            replica: id of the replica.
            store: handle of the deployment with the board.
            folder: folder that must contain all adapters; None if the adapter never changes.
        """
        self.judge = judge
        self._replica, self._store, self._folder = replica, store, folder
        self._current = START
        self._judges: dict[int, asyncio.Task[FlexJudge]] = {}
        self._running: Counter[int] = Counter()
        self._unwanted: set[int] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the current adapter, then follow the board until `close`.

        Raises:
            AdapterError: the current adapter cannot be loaded, so this replica cannot work.
        """
        if self._folder is None or self._store is None:
            return
        plan = AdapterPlan("", START)
        try:
            plan = await self._ask_for_plan(plan)
        except Exception as e:  # noqa: BLE001 - requests name the adapter that they need
            log.warning("the board of adapters is not available: %r", e)
        if plan.current.number:
            await self._get_judge(plan.current)
        self._current = plan.current
        self._task = asyncio.create_task(self._follow_board(plan))

    def close(self) -> None:
        """Stop following the board."""
        if self._task is not None:
            self._task.cancel()

    @asynccontextmanager
    async def use_judge(self, version: AdapterVersion | None) -> AsyncIterator[tuple[FlexJudge, AdapterVersion]]:
        """Provide the judge with an adapter until the block ends, and load the adapter first if necessary.

        Args:
            version: the adapter; None for the current one.

        Raises:
            AdapterError: the adapter cannot be loaded.
        """
        version = version or self._current
        self._running[version.number] += 1
        try:
            yield (await self._get_judge(version) if version.number else self.judge), version
        finally:
            self._running[version.number] -= 1
            self._free_unwanted()

    async def _get_judge(self, version: AdapterVersion) -> FlexJudge:
        task = self._judges.get(version.number)
        if task is None:
            task = self._judges[version.number] = asyncio.create_task(self._load_judge(version))
        self._unwanted.discard(version.number)
        try:
            return await asyncio.shield(task)
        except Exception:
            if self._judges.get(version.number) is task:  # a later request tries again
                del self._judges[version.number]
            raise

    async def _load_judge(self, version: AdapterVersion) -> FlexJudge:
        started = time.monotonic()
        path = await asyncio.to_thread(Path(version.path).resolve)
        folder = await asyncio.to_thread(Path(self._folder or "").resolve)
        if self._folder is None or not path.is_relative_to(folder) or path == folder:
            raise AdapterError(f"adapter {version.name!r}: a link leads out of the folder that the operator allows")
        if not await asyncio.to_thread(path.is_dir):
            raise AdapterError(f"adapter {version.name!r}: this replica has no such folder; check its storage")
        judge = await self.judge.aload_adapter(str(path), version.name, version.fingerprint or None)
        await judge.warm_up()
        seconds = time.monotonic() - started
        log.info("the adapter %s is loaded after %.1f s", judge.engine.model_id, seconds)
        return judge

    async def _ask_for_plan(self, plan: AdapterPlan) -> AdapterPlan:
        call = call_store(self._store.follow_adapters, self._replica, plan.revision, self._current)
        new_plan: AdapterPlan = await asyncio.wait_for(call, CALL_S)
        return new_plan

    async def _follow_board(self, plan: AdapterPlan) -> None:
        """Load and free adapters as the board says."""
        reporting: dict[int, asyncio.Task[None]] = {}
        while True:
            self._current = max(self._current, plan.current, key=lambda version: version.number)
            wanted = {version.number: version for version in (*plan.others, self._current) if version.number}
            for number, version in wanted.items():
                if number not in reporting:
                    reporting[number] = asyncio.create_task(self._load_and_report(version))
            reporting = {number: task for number, task in reporting.items() if number in wanted}
            self._unwanted |= self._judges.keys() - wanted.keys()
            self._free_unwanted()
            try:
                plan = await self._ask_for_plan(plan)
            except Exception as e:  # noqa: BLE001 - the board may be restarting
                log.warning("the board of adapters is not available: %r", e)
                await asyncio.sleep(WATCH_S)

    async def _load_and_report(self, version: AdapterVersion) -> None:
        try:
            judge = await self._get_judge(version)
            report = AdapterReport(judge.engine.model_id.rpartition("@")[2])
        except Exception as e:  # noqa: BLE001 - reported to the gateway, whatever it is
            log.warning("the adapter %s cannot be loaded: %s", version.name, e)
            report = AdapterReport(problem=to_one_line(e)[:500])
        call = call_store(self._store.report_adapter, self._replica, version.number, report)
        try:
            await asyncio.wait_for(call, CALL_S)
        except Exception as e:  # noqa: BLE001 - the gateway then gives up waiting
            log.warning("the board of adapters is not available: %r", e)

    def _free_unwanted(self) -> None:
        for number in [number for number in self._unwanted if not self._running[number]]:
            self._unwanted.discard(number)
            if number in self._judges:
                self._judges.pop(number).add_done_callback(_close_judge)


def _close_judge(task: asyncio.Task[FlexJudge]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
