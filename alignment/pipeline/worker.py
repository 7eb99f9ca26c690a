"""Worker of a run: processes shards and writes their results."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flex_judge.alignment.data.prompts import parse_prompt_row
from flex_judge.alignment.pipeline.job import InvalidInputError, Job, RowResult, Work, WorkStats
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport
from flex_judge.alignment.pipeline.tally import open_tally
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import (
    AccessError,
    EngineLostError,
    LedgerError,
    MediaError,
    RenderError,
    UsageError,
    to_one_line,
)
from flex_judge.judges.io.json_rows import LocatedRow, is_row_id
from flex_judge.judges.judgments import Status

FAILED_TABLE = "failed"
"""Table of rows without a result, with the reasons."""
INVALID = str(Status.INVALID_INPUT)
"""Reason of rows that cannot be read or judged as they are."""
FATAL_ERRORS = (AccessError, LedgerError)
"""Errors that are not specific to a row and would hit every other row, too."""


class AllFailedError(EngineLostError):
    """Too many consecutive rows failed, so the cause is not the rows.

    An EngineLostError, because the run is to be continued after the cause is removed.
    """


@dataclass(frozen=True)
class _FailedRow:
    """Row without a result."""

    id: str | None
    reason: str
    problem: str
    needs_retry: bool = False
    """Whether a rerun may succeed."""


class ShardWorker:
    """Processes shards, many rows concurrently. Ray Data creates one per actor; any event loop can run one, too."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._shard_folder = ShardFolder(job.folder)
        self._row_slots = asyncio.Semaphore(job.rows_at_once)
        # A crash can fail all rows in progress at once; a second full round of failures is systematic.
        self._max_consecutive = 2 * job.rows_at_once
        self._open_lock = asyncio.Lock()
        self._work: Work | None = None
        self._consecutive_failures = 0
        self._consecutive_rejections = 0
        self._last_rejection = ""

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Process a Ray Data batch: `{"shard": [number, ...]}` -> columns of the reports."""
        reports = [await self.process_shard(int(shard)) for shard in batch["shard"]]
        return {name: [getattr(report, name) for report in reports] for name in ("shard", "rows", "done", "again")}

    async def process_shard(self, number: int) -> ShardReport:
        """Process a shard and write its results.

        Raises:
            AllFailedError: Too many consecutive rows failed. The shard is not written.
            AccessError: A model rejects the key or does not exist. The shard is not written.
            LedgerError: The ledger cannot be read or written. The shard is not written.
        """
        work = await self._open_work()
        started = time.monotonic()
        start, stop = self._job.get_row_range(number)
        source, columns = self._job.source, self._job.columns
        rows = await asyncio.to_thread(lambda: list(source.read_range(start, stop, columns.needs_column)))
        # The first fatal error cancels the other rows.
        results = await gather_all(self._process_row(work, row, n) for n, row in enumerate(rows, start + 1))
        open_tally(self._job.folder).write()  # before the report, after which nobody reads the counts
        tables: dict[str, list[Mapping[str, Any]]] = {name: [] for name in (*self._job.plan.tables, FAILED_TABLE)}
        stats: WorkStats | None = None
        failed: Counter[str] = Counter()
        # Results are in the order of the rows, whatever order they finished in: reruns write the same bytes.
        for result in results:
            if isinstance(result, _FailedRow):
                tables[FAILED_TABLE].append({"id": result.id, "reason": result.reason, "problem": result.problem})
                failed[result.reason] += 1
                continue
            for name, table_rows in result.tables.items():
                tables[name].extend(table_rows)
            stats = result.stats if stats is None or result.stats is None else stats + result.stats
        report = ShardReport(
            shard=number,
            rows=len(rows),
            done=len(rows) - failed.total(),
            failed=dict(failed),
            again=sum(result.needs_retry for result in results),
            seconds=round(time.monotonic() - started, 3),
            stats=None if stats is None else stats.to_json(),
        )
        await asyncio.to_thread(self._shard_folder.write_shard, report, tables)
        return report

    async def _open_work(self) -> Work:
        # The lock keeps concurrent shards from loading the models twice.
        async with self._open_lock:
            if self._work is None:
                self._work = await self._job.plan.open()
        return self._work

    async def _process_row(self, work: Work, located_row: LocatedRow, number: int) -> RowResult | _FailedRow:
        where, data = located_row
        if isinstance(data, UsageError):
            return _FailedRow(None, INVALID, to_one_line(data))
        async with self._row_slots:
            try:
                # Parsed inside the semaphore: reading media takes time and memory.
                row = await asyncio.to_thread(
                    parse_prompt_row, data, where, number, self._job.columns, self._job.source.folder
                )
            except (UsageError, MemoryError, RecursionError) as e:
                problem = to_one_line(e) or f"{where}: does not fit into memory"
                return _FailedRow(_find_id(data, self._job.columns.id), INVALID, problem)
            try:
                with open_tally(self._job.folder).count_row():
                    result = await work(row)
            # Before UsageError, which is the base class of AccessError.
            except FATAL_ERRORS:
                raise
            except (InvalidInputError, MediaError) as e:  # of the row, however many such rows there are
                return _FailedRow(row.id, INVALID, f"{where}: {to_one_line(e)}")
            except (UsageError, RenderError) as e:
                return self._record_rejection(row.id, where, e)
            except Exception as e:  # noqa: BLE001 - one bad row must not end the others
                return self._record_failure(row.id, where, e)
            self._consecutive_failures = self._consecutive_rejections = 0
            return result

    def _record_rejection(self, id: str, where: str, error: Exception) -> _FailedRow:
        """Record a row that a model rejected.

        Raises:
            AllFailedError: Too many consecutive rows were rejected with the same message: a setting is wrong, not a
                row.
        """
        message = to_one_line(error)
        self._consecutive_rejections = self._consecutive_rejections + 1 if message == self._last_rejection else 1
        self._last_rejection = message
        if self._consecutive_rejections >= self._max_consecutive:
            raise AllFailedError(
                f"{self._consecutive_rejections} consecutive rows were rejected with the same error: {message}"
            ) from error
        return _FailedRow(id, "rejected", f"{where}: {message}")

    def _record_failure(self, id: str, where: str, error: Exception) -> _FailedRow:
        """Record a row that failed through no known fault of its own.

        Raises:
            AllFailedError: Twice as many consecutive rows failed as are processed at a time.
        """
        message = to_one_line(error)
        self._consecutive_failures += 1
        if self._consecutive_failures >= self._max_consecutive:
            raise AllFailedError(
                f"{self._consecutive_failures} consecutive rows failed; last error: {message}"
            ) from error
        if isinstance(error, EngineLostError):
            return _FailedRow(id, "engine_lost", f"{where}: {message}", needs_retry=True)
        return _FailedRow(id, "failed", f"{where}: {type(error).__name__}: {message}", needs_retry=True)


def _find_id(data: Mapping[str, Any], column: str) -> str | None:
    """Return the id of a row that cannot be read otherwise; None if it has none."""
    value = data.get(column)
    return str(value) if is_row_id(value) else None
