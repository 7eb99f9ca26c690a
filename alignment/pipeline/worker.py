"""One worker of a run: takes shards, and leaves their results in the folder."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flex_judge.alignment.data.prompts import parse_prompt_row
from flex_judge.alignment.data.sources import LocatedRow
from flex_judge.alignment.pipeline.job import Job, RowResult, Work, WorkStats
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport
from flex_judge.judges.errors import AccessError, EngineLostError, LedgerError, RenderError, UsageError, to_one_line

FAILED_TABLE = "failed"
"""Name of the file of rows that have no result, and why."""
FATAL_ERRORS = (AccessError, LedgerError)
"""Errors that say nothing of a row, and that the next one would meet too."""


class AllFailedError(EngineLostError):
    """Row after row is lost: it is not the rows' fault, and going on would lose all others."""


@dataclass(frozen=True)
class _FailedRow:
    """Why a row has no result."""

    id: str | None
    reason: str
    problem: str
    again: bool = False
    """Whether another try may succeed."""


class ShardWorker:
    """Works on shards, many rows at a time. Ray Data makes one in each of its actors; an event loop is enough too."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shard_folder = ShardFolder(job.folder)
        self._room = asyncio.Semaphore(job.rows_at_once)
        self._opening = asyncio.Lock()
        self._work: Work | None = None
        self._failed_in_a_row = 0
        self._rejected_in_a_row = 0
        self._refusal = ""

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Work on the shards of a batch of Ray Data's: `{"shard": [number, ...]}` to their reports by columns."""
        reports = [await self.process_shard(int(shard)) for shard in batch["shard"]]
        return {name: [getattr(r, name) for r in reports] for name in ("shard", "rows", "done", "again")}

    async def process_shard(self, number: int) -> ShardReport:
        """Work on a shard and write its results.

        Raises:
            AllFailedError: see there. Nothing is written.
            AccessError: a model wants another key, or does not exist. Likewise.
        """
        work = await self._open_work()
        began = time.monotonic()
        start, stop = self._job.get_row_range(number)
        rows = await asyncio.to_thread(lambda: list(self._job.source.read_range(start, stop)))
        results = await self._process_rows(work, rows, start)
        tables: dict[str, list[Mapping[str, Any]]] = {name: [] for name in (*self._job.plan.tables, FAILED_TABLE)}
        stats: WorkStats | None = None
        for result in results:
            if isinstance(result, _FailedRow):
                tables[FAILED_TABLE].append({"id": result.id, "reason": result.reason, "problem": result.problem})
                continue
            for name, made in result.tables.items():
                tables[name].extend(made)
            stats = result.stats if stats is None or result.stats is None else stats + result.stats
        failed = Counter(result.reason for result in results if isinstance(result, _FailedRow))
        report = ShardReport(
            number,
            len(rows),
            len(rows) - failed.total(),
            dict(failed),
            sum(result.again for result in results),
            round(time.monotonic() - began, 3),
            None if stats is None else stats.to_json(),
        )
        await asyncio.to_thread(self._shard_folder.write_shard, report, tables)
        return report

    async def _open_work(self) -> Work:
        async with self._opening:
            if self._work is None:
                self._work = await self._job.plan.open()
        return self._work

    async def _process_rows(self, work: Work, rows: list[LocatedRow], start: int) -> list[RowResult | _FailedRow]:
        """What the rows came to. The first error that ends the run gives up the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._process_row(work, row, n)) for n, row in enumerate(rows, start + 1)]
        except ExceptionGroup as e:
            error = e.exceptions[0]
        else:
            return [task.result() for task in running]
        raise error

    async def _process_row(self, work: Work, read: LocatedRow, number: int) -> RowResult | _FailedRow:
        where, data = read
        if isinstance(data, UsageError):
            return _FailedRow(None, "bad row", to_one_line(data))
        async with self._room:
            try:
                # Here, not with the other rows of the shard: reading media takes time and memory.
                row = await asyncio.to_thread(
                    parse_prompt_row, data, where, number, self._job.columns, self._job.source.folder
                )
            except UsageError as e:
                return _FailedRow(None, "bad row", to_one_line(e))
            try:
                outcome = await work(row)
            except FATAL_ERRORS:
                raise
            except (UsageError, RenderError) as e:
                return self._record_rejection(row.id, where, e)
            except Exception as e:  # noqa: BLE001 - the boundary: whatever one row does, the others go on
                return self._record_failure(row.id, where, e)
            self._failed_in_a_row = self._rejected_in_a_row = 0
            return outcome

    def _record_rejection(self, id: str, where: str, error: Exception) -> _FailedRow:
        """Note a row that a model does not take.

        Raises:
            AllFailedError: row after row was refused in the same words, so it is a setting that is refused and no row.
        """
        refusal = to_one_line(error)
        self._rejected_in_a_row = self._rejected_in_a_row + 1 if refusal == self._refusal else 1
        self._refusal = refusal
        if self._rejected_in_a_row >= 2 * self._job.rows_at_once:
            raise AllFailedError(f"{self._rejected_in_a_row} rows in a row were refused: {refusal}") from error
        return _FailedRow(id, "rejected", f"{where}: {refusal}")

    def _record_failure(self, id: str, where: str, error: Exception) -> _FailedRow:
        """Note a row that was lost through no fault that it is known for.

        Raises:
            AllFailedError: as were all others of late, twice as many as are under way at a time.
        """
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= 2 * self._job.rows_at_once:
            raise AllFailedError(
                f"{self._failed_in_a_row} rows in a row were lost, the last one: {to_one_line(error)}"
            ) from error
        if isinstance(error, EngineLostError):
            return _FailedRow(id, "engine_lost", f"{where}: {to_one_line(error)}", again=True)
        return _FailedRow(id, "failed", f"{where}: {type(error).__name__}: {to_one_line(error)}", again=True)
