"""One worker of a run: takes shards, and leaves their results in the folder."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from alignment.prompts import read_prompts
from alignment.rows import PromptRow
from alignment.scale.job import Job, Outcome, Stats, Work
from alignment.scale.parts import Parts, Report
from judges.errors import EngineLostError, RenderError, UsageError

LOST = "lost"
"""Name of the file of rows that have no result, and why."""


class AllLostError(EngineLostError):
    """A model was lost over every row of a shard: it is not the rows' fault, and going on would lose all others."""


class ShardWorker:
    """Works on shards, many rows at a time. Ray Data makes one in each of its actors; an event loop is enough too."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._parts = Parts(job.folder)
        self._room = asyncio.Semaphore(job.rows_at_once)
        self._opening = asyncio.Lock()
        self._work: Work | None = None

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Work on the shards of a batch of Ray Data's: `{"shard": [number, ...]}` to their reports by columns."""
        reports = [await self.shard(int(shard)) for shard in batch["shard"]]
        return {name: [getattr(r, name) for r in reports] for name in ("shard", "rows", "done", "again")}

    async def shard(self, number: int) -> Report:
        """Work on a shard and write its results.

        Raises:
            AllLostError: see there. Nothing is written.
        """
        work = await self._opened()
        start = time.monotonic()
        prompts = read_prompts(self._job.source, *self._job.stretch(number), self._job.columns)
        rows = await asyncio.to_thread(list, prompts)  # which reads files
        results = await asyncio.gather(*(self._row(work, row) for row in rows))
        tables: dict[str, list[Mapping[str, Any]]] = {name: [] for name in (*self._job.plan.tables, LOST)}
        lost: Counter[str] = Counter()
        stats: Stats | None = None
        again = 0
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, UsageError | RenderError | EngineLostError):
                reason = _reason(row, result)
                lost[reason] += 1
                again += isinstance(result, EngineLostError)
                tables[LOST].append(_lost_row(row, reason, result))
            else:
                for name, made in result.tables.items():
                    tables[name].extend(made)
                stats = result.stats if stats is None or result.stats is None else stats + result.stats
        if rows and again == len(rows):
            raise AllLostError(str(next(r for r in results if isinstance(r, EngineLostError))))
        report = Report(
            number,
            len(rows),
            len(rows) - lost.total(),
            dict(lost),
            again,
            round(time.monotonic() - start, 3),
            None if stats is None else stats.to_json(),
        )
        await asyncio.to_thread(self._parts.write, report, tables)
        return report

    async def _opened(self) -> Work:
        async with self._opening:
            if self._work is None:
                self._work = await self._job.plan.open()
        return self._work

    async def _row(
        self, work: Work, row: PromptRow | UsageError
    ) -> Outcome | UsageError | RenderError | EngineLostError:
        if isinstance(row, UsageError):
            return row
        async with self._room:
            try:
                return await work(row)
            except (UsageError, RenderError, EngineLostError) as e:
                return e


def _reason(row: PromptRow | UsageError, error: Exception) -> str:
    if isinstance(row, UsageError):
        return "bad row"
    return "engine_lost" if isinstance(error, EngineLostError) else "refused"


def _lost_row(row: PromptRow | UsageError, reason: str, error: Exception) -> dict[str, Any]:
    problem = " ".join(str(error).split())
    if isinstance(row, UsageError):
        return {"id": None, "reason": reason, "problem": problem}
    return {"id": row.id, "reason": reason, "problem": f"{row.where}: {problem}"}
