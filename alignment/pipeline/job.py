"""Interfaces between a sharded job and the work done on its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import Source
from flex_judge.judges.errors import UsageError

Tables = Mapping[str, Sequence[Mapping[str, Any]]]
"""Table name -> rows to write. Each table becomes one file per shard."""


class WorkStats(Protocol):
    """Mergeable counts over rows and shards."""

    def __add__(self, other: Self, /) -> Self: ...

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        ...


class InvalidInputError(UsageError):
    """Row whose prompt or responses cannot be judged. Recorded with the reason `invalid_input`; the run continues."""


@dataclass(frozen=True)
class RowResult:
    """Result of one row."""

    tables: Tables
    stats: WorkStats | None = None
    """The row's contribution to the counts of the run, if the work collects any."""
    needs_retry: bool = False
    """Whether a rerun may give a better result, because judgments were lost to an engine crash or timed out."""


class Work(Protocol):
    """Processing of one row. Opened once per worker; many rows are processed concurrently."""

    async def __call__(self, row: PromptRow) -> RowResult:
        """Process one row. Must be deterministic, so that a rerun gives the same result.

        Raises:
            InvalidInputError: The row cannot be judged. It is recorded and the run continues; so is a row with a
                MediaError, whose media the policy cannot take.
            UsageError: The row cannot be processed. It is recorded as rejected and the run continues, unless many
                consecutive rows are rejected with the same message.
            AccessError: No row can be processed; ends the run.
            EngineLostError: A model was lost. As with any other exception, the row is recorded as failed and is
                retried by the next run.
        """
        ...


class WorkPlan(Protocol):
    """Picklable description of the work, opened in each worker."""

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that the work writes."""
        ...

    async def open(self) -> Work:
        """Connect to or load the models."""
        ...


@dataclass(frozen=True)
class Job:
    """Rows, the work to do on them, and the folder for the results."""

    source: Source
    plan: WorkPlan
    folder: Path
    """Folder of the shards, on a file system that all workers share."""
    columns: PromptColumns = field(default_factory=PromptColumns)
    shard_rows: int = 64
    """Rows per shard, see `choose_shard_rows`. A killed run loses at most this many rows of each shard in progress."""
    rows_at_once: int = 64
    """Maximum number of rows in progress per worker."""
    workers: int = 1
    shards_at_once: int = 4
    """Shards in progress per worker. More than one, so that no replica idles while the last row of a shard finishes."""
    retry_rejected: bool = False
    """Whether to retry rejected rows of an earlier run."""

    @property
    def shard_count(self) -> int:
        """Number of shards."""
        return count_shards(len(self.source), self.shard_rows)

    def get_row_range(self, shard: int) -> tuple[int, int]:
        """Return the first row of a shard and the row after its last."""
        start = shard * self.shard_rows
        return start, min(start + self.shard_rows, len(self.source))


def count_shards(rows: int, shard_rows: int) -> int:
    """Return the number of shards for `rows` rows."""
    return -(-rows // shard_rows)


def choose_shard_rows(rows: int) -> int:
    """Choose the number of rows per shard: a fiftieth of all rows, from 1 to 256.

    It depends on the size of the data set only, so that a resumed run uses the same shards.
    """
    return min(256, max(1, rows // 50))
