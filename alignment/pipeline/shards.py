"""Folder of a run's results: one set of files per shard, written atomically."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_object, read_rows, replace_file, write_rows, write_text
from flex_judge.judges.io.storage import explain_write_errors


@dataclass(frozen=True)
class ShardReport:
    """Counts of the rows of a shard."""

    shard: int
    rows: int
    """Number of rows read."""
    done: int
    """Number of rows with a result."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows without a result."""
    again: int = 0
    """Number of rows to retry: a model was lost while they, or some of their answers, were processed."""
    seconds: float = 0.0
    stats: Mapping[str, Any] | None = None
    """Counts collected by the work, if any."""

    @property
    def is_final(self) -> bool:
        """Whether no row needs a retry."""
        return not self.again


class ShardFolder:
    """Results of shards, on a file system that all workers share.

    The report is written last, so a shard counts as done only when its report exists. Files that a killed worker left
    behind are overwritten.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shard(self, report: ShardReport, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write the tables and the report of a shard."""
        with explain_write_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in tables.items():
            write_rows(self._table_path(name, report.shard), rows)
        # Last: the report marks the shard as complete.
        write_text(self._report_path(report.shard), dump_json(asdict(report)) + "\n")

    def read_reports(self) -> dict[int, ShardReport]:
        """Read all reports: shard -> report."""
        reports = (ShardReport(**read_object(path)) for path in sorted(self.folder.glob("report-*.json")))
        return {report.shard: report for report in reports}

    def join_table(self, table: str, shards: Collection[int], path: Path) -> None:
        """Concatenate a table's shards into one file, in order of the shards."""
        with replace_file(path) as partial, partial.open("wb") as joined_file:
            for shard in sorted(shards):
                with self._table_path(table, shard).open("rb") as shard_file:
                    shutil.copyfileobj(shard_file, joined_file)

    def read_table_rows(self, table: str, shards: Collection[int]) -> Iterator[dict[str, Any]]:
        """Read a table's rows, in order of the shards."""
        for shard in sorted(shards):
            yield from read_rows(self._table_path(table, shard))

    def _table_path(self, table: str, shard: int) -> Path:
        return self.folder / f"{table}-{shard:06d}.jsonl"

    def _report_path(self, shard: int) -> Path:
        return self.folder / f"report-{shard:06d}.json"


def sum_reports(reports: Collection[ShardReport]) -> ShardReport:
    """Add up the reports of several shards."""
    failed: Counter[str] = Counter()
    for report in reports:
        failed.update(report.failed)
    return ShardReport(
        shard=-1,
        rows=sum(r.rows for r in reports),
        done=sum(r.done for r in reports),
        failed=dict(sorted(failed.items())),
        again=sum(r.again for r in reports),
        seconds=round(sum(r.seconds for r in reports), 1),
    )
