"""What is done with the rows of a data set: plain data that travels to the workers, and the work itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import Source

Tables = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows to be written, by the name of their file."""


class WorkStats(Protocol):
    """Counts that add up, over rows and over shards: `+`."""

    def __add__(self, other: Self, /) -> Self: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class RowResult:
    """What a row came to."""

    tables: Tables
    stats: WorkStats | None = None
    """What it adds to the counts of the run, if the work keeps some."""
    again: bool = False
    """Whether another try may come to more: some of its judgments were lost with an engine, or late."""


class Work(Protocol):
    """What is done with one row. Opened once in each worker; many rows are worked on at the same time."""

    async def __call__(self, row: PromptRow) -> RowResult:
        """The results of a row; the same row always gives the same ones.

        Raises:
            UsageError: the row cannot be worked on as it is. It is counted and written down, and the run goes on.
            AccessError: no row can be worked on; ends the run.
            EngineLostError: a model was lost over it. It is counted, and a rerun tries it again; as with anything else
                that is raised.
        """
        ...


class WorkPlan(Protocol):
    """What work is made of: picklable, opened in each worker."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the files that the work writes."""
        ...

    async def open(self) -> Work: ...


@dataclass(frozen=True)
class Job:
    """Rows, what is done with them, and where the results go."""

    source: Source
    plan: WorkPlan
    folder: Path
    """Of the parts; on a file system that all workers share."""
    columns: PromptColumns = field(default_factory=PromptColumns)
    shard_rows: int = 64
    """Rows whose results are written together, see `shard_rows_for`: what a killed run loses at most of each shard
    under way."""
    rows_at_once: int = 64
    """Rows that a worker has under way at a time."""
    workers: int = 1
    shards_at_once: int = 4
    """Shards that a worker has under way at a time, so that no replica waits for the last row of one."""
    retry_rejected: bool = False
    """Whether rows that were refused are tried again."""

    @property
    def shard_count(self) -> int:
        return count_shards(len(self.source), self.shard_rows)

    def get_row_range(self, shard: int) -> tuple[int, int]:
        """First row of a shard, and the one after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, len(self.source))


def count_shards(rows: int, shard_rows: int) -> int:
    """How many shards so many rows make."""
    return -(-rows // shard_rows)


def choose_shard_rows(rows: int) -> int:
    """How many rows go into a shard of a data set of that size: some fifty shards, of 1 to 256 rows.

    A function of the size alone, so that a run that goes on finds the same shards.
    """
    return min(256, max(1, rows // 50))
