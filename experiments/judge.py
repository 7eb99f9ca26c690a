"""`flex-judge judge`: judge comparisons of a file, or one from flags; resumable, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from experiments.judge_config import JudgeRun
from judges import Comparison, FlexJudge, Judgment
from judges.engines import load_engine, resolve_engine
from judges.errors import LedgerError, NotRecordedError, RenderError, UsageError
from judges.files import read_table, write_table
from judges.journal import Journal
from judges.models import check_model

if TYPE_CHECKING:
    from rich.progress import Progress


class Row(Protocol):
    """What can be judged; see `judges.files.Row`."""

    @property
    def id(self) -> str: ...

    def comparison(self) -> Comparison: ...


@dataclass(frozen=True)
class Given:
    """A comparison that was given by flags."""

    id: str
    make: Comparison

    def comparison(self) -> Comparison:
        return self.make


@dataclass
class Result:
    """What a run came to."""

    judgments: list[Judgment] = field(default_factory=list)
    """In the order of the rows, without those that were lost."""
    lost: dict[str, str] = field(default_factory=dict)
    """Id of a row that could not be judged at all -> why."""
    kept: int = 0
    """Judgments that an earlier run had made."""
    hits: int | None = None
    """Requests to the engine that a ledger answered; None without a ledger."""
    requests: int = 0
    """All requests to the engine; 0 without a ledger."""

    @property
    def failures(self) -> Counter[str]:
        """Why comparisons have no score -> how many."""
        counts = Counter(str(j.status) for j in self.judgments if j.scores is None)
        if self.lost:
            counts["not judged"] = len(self.lost)
        return counts


def judge_rows(config: JudgeRun, rows: Sequence[Row], progress: Progress | None = None) -> Result:
    """Judge rows. With `config.out`, judgments are in that file as soon as they are made, and those that are in it
    already, of the same comparison by the same judge, are not made again.

    Raises:
        UsageError: settings that cannot work, or an output file that holds something else.
        EngineLostError: the engine died; what was judged is kept.
    """
    settings = config.settings
    if not config.replay and resolve_engine(config.engine) != "scripted":
        check_model(config.model)
    out = Path(config.out) if config.out else None
    result = Result()
    with _journal(out, {row.id for row in rows}) as journal:
        if progress:
            loading = progress.add_task("loading the judge", total=None)
        judge = FlexJudge(load_engine(config.engine_config), settings)
        if progress:
            progress.update(loading, total=1, completed=1)
        try:
            asyncio.run(_Run(judge, journal, result, progress).judge(rows, config.concurrency))
            result.hits = getattr(judge.engine, "hits", None)
            result.requests = (result.hits or 0) + getattr(judge.engine, "misses", 0)
        finally:
            judge.close()
    if out is not None:
        write_table(out, [judgment.to_json() for judgment in result.judgments])
        if (working := _working_file(out)) != out:
            working.unlink(missing_ok=True)
    return result


class _Run:
    """Rows on their way through a judge."""

    def __init__(self, judge: FlexJudge, journal: Journal | None, result: Result, progress: Progress | None) -> None:
        self.judge_, self.journal, self.result, self.progress = judge, journal, result, progress
        self.found: dict[str, Judgment] = {}

    async def judge(self, rows: Sequence[Row], concurrency: int) -> None:
        """Judge rows, so many at a time."""
        waiting = iter(rows)
        bar = self.progress.add_task("judging", total=len(rows)) if self.progress else None

        async def worker() -> None:
            for row in waiting:
                await self._row(row)
                if self.progress and bar is not None:
                    self.progress.advance(bar)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, len(rows))):
                    tasks.create_task(worker())
        except ExceptionGroup as e:
            raise e.exceptions[0] from e
        self.result.judgments = [self.found[row.id] for row in rows if row.id in self.found]

    async def _row(self, row: Row) -> None:
        try:
            comparison = row.comparison()
            if kept := self._kept(row.id, self.judge_.key(comparison)):
                self.result.kept += 1
                self.found[row.id] = kept
                return
            judgment = await self.judge_.ajudge(comparison)
        except LedgerError:
            raise  # what cannot be recorded ends the run
        except (NotRecordedError, RenderError, UsageError) as e:  # this row's own fault: the others go on
            self.result.lost[row.id] = " ".join(str(e).split())
            return
        self.found[row.id] = judgment
        if self.journal:
            self.journal.append(judgment.to_json())

    def _kept(self, row_id: str, key: str) -> Judgment | None:
        """What an earlier run made of the same comparison, unless another try may end otherwise."""
        row = self.journal.rows.get(row_id) if self.journal else None
        if row is None or row["provenance"].get("key") != key:
            return None
        judgment = Judgment.from_json(row)
        return judgment if judgment.status.is_final else None


@contextmanager
def _journal(out: Path | None, ids: Collection[str]) -> Iterator[Journal | None]:
    """The judgments of earlier runs, and where those of this one go."""
    if out is None:
        yield None
        return
    if out.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"--out {out}: expected a file that ends in .jsonl or .parquet")
    journal = Journal(_working_file(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        journal.__enter__()
    except OSError as e:
        raise UsageError(f"{out}: cannot be written: {e.strerror or e}") from e
    with closing(journal):
        if out.exists() and out != journal.path:
            journal.rows = {row["id"]: row for _, row in read_table(out)} | journal.rows
        _check_rows(out, journal.rows, ids)
        yield journal


def _check_rows(out: Path, rows: dict[str, dict[str, object]], ids: Collection[str]) -> None:
    for name, row in rows.items():
        if not {"status", "votes", "provenance"} <= row.keys():
            raise UsageError(f"{out}: holds something else than judgments; choose another --out")
        if name not in ids:
            raise UsageError(f"{out}: holds a judgment of {name!r}, which is not judged here; choose another --out")


def _working_file(out: Path) -> Path:
    """Where judgments are put one by one: a Parquet file can only be written as a whole."""
    return out.with_name(out.name + ".jsonl") if out.suffix == ".parquet" else out
