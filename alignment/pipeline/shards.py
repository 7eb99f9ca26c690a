"""The folder in which a run's results grow: one set of files for each shard, whole or not there at all."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flex_judge.judges.io.jsonl import read_object, read_rows, write_rows, write_text


@dataclass(frozen=True)
class ShardReport:
    """What became of the rows of a shard."""

    shard: int
    rows: int
    """Rows that were read."""
    done: int
    """Rows that have results."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Why other rows have none -> how many."""
    again: int = 0
    """Rows that another try may get done, or further: a model was lost over them, or over some of their answers."""
    seconds: float = 0.0
    stats: Mapping[str, Any] | None = None
    """The counts of the work, if it keeps some."""

    @property
    def is_final(self) -> bool:
        return not self.again


class ShardFolder:
    """The results of shards, on a file system that all workers share.

    A shard counts from the moment its report is there, which is written last; what a killed worker left of a shard is
    written over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shard(self, report: ShardReport, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Keep what became of a shard."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, rows in tables.items():
            write_rows(self._table_path(name, report.shard), rows)
        write_text(self._report_path(report.shard), json.dumps(asdict(report)) + "\n")

    def read_reports(self) -> dict[int, ShardReport]:
        """The reports that are there, by shard."""
        found = (ShardReport(**read_object(path)) for path in sorted(self.folder.glob("report-*.json")))
        return {report.shard: report for report in found}

    def join_table(self, table: str, shards: Collection[int], path: Path) -> None:
        """Write the rows of all shards of a table to one file, in the order of the shards."""
        partial = path.with_name(path.name + ".partial")
        with partial.open("wb") as whole:
            for shard in sorted(shards):
                with self._table_path(table, shard).open("rb") as part:
                    shutil.copyfileobj(part, whole)
        partial.replace(path)

    def read_table_rows(self, table: str, shards: Collection[int]) -> Iterator[dict[str, Any]]:
        """The rows of all shards of a table, in the order of the shards."""
        for shard in sorted(shards):
            yield from read_rows(self._table_path(table, shard))

    def _table_path(self, table: str, shard: int) -> Path:
        return self.folder / f"{table}-{shard:06d}.jsonl"

    def _report_path(self, shard: int) -> Path:
        return self.folder / f"report-{shard:06d}.json"


def sum_reports(reports: Collection[ShardReport]) -> ShardReport:
    """Of several shards, what became of their rows altogether."""
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
