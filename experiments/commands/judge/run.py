"""`flex-judge judge`: judge comparisons of a file, or one from flags; resumable, and nothing is lost on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.commands.judge.output import JudgmentFile
from flex_judge.judges.engines import load_engine, resolve_engine
from flex_judge.judges.errors import LedgerError, NotRecordedError, RenderError, UsageError, to_one_line
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.models import check_model
from flex_judge.judges.types import Comparison

if TYPE_CHECKING:
    from rich.progress import Progress


class JudgeableRow(Protocol):
    """What can be judged: a row of a file, see `flex_judge.judges.io.files.Row`, or what flags gave."""

    @property
    def id(self) -> str: ...

    @property
    def where(self) -> str:
        """File and row, for messages."""
        ...

    def load_comparison(self) -> Comparison:
        """The comparison, media read; raises UsageError, beginning with `where`, if they cannot be."""
        ...


@dataclass(frozen=True)
class LoadedRow:
    """A comparison that is there already."""

    given: Comparison
    where: str = "the comparison"

    @property
    def id(self) -> str:
        return self.given.id

    def load_comparison(self) -> Comparison:
        return self.given


@dataclass
class JudgeResult:
    """What a run came to."""

    judgments: list[Judgment] = field(default_factory=list)
    """In the order of the rows, without those that were lost."""
    lost: dict[str, str] = field(default_factory=dict)
    """Id of a row that could not be judged at all -> where it is, and why. In the order of the rows."""
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


def check_judge(config: JudgeRun) -> None:
    """Raise UsageError if the judge cannot be had. Loads no model and, the adapter apart, downloads none."""
    if config.replay or resolve_engine(config.judge.engine.engine) == "scripted":
        return
    check_model(config.judge.engine.model, config.judge.engine.adapter)


def judge_rows(
    config: JudgeRun, rows: Sequence[JudgeableRow], output: JudgmentFile | None = None, progress: Progress | None = None
) -> JudgeResult:
    """Judge rows.

    Args:
        config: the judge, and how it judges. Its `out` is not looked at.
        rows: no two with one id.
        output: judgments are in that file as soon as they are made, and those that are in it already, of the same
            comparison by the same judge, are not made again.
        progress: shows how far it is.

    Raises:
        UsageError: the judge cannot be loaded.
        EngineLostError: the engine died; what was judged is in `output`.
    """
    result = JudgeResult()
    if progress:
        loading = progress.add_task("loading the judge", total=None)
    engine = load_engine(config.engine_config)
    judge = FlexJudge(engine, config.build_settings(engine.model_id))
    if progress:
        progress.update(loading, total=1, completed=1)
    # A replay is there to read the replies again, so it keeps nothing that was read before.
    keeps = output if not config.replay else None

    def find_stored(row: JudgeableRow, comparison: Comparison) -> Judgment | None:
        found = keeps.find_final_judgment(row.id, judge.compute_key(comparison)) if keeps else None
        result.kept += found is not None
        return found

    bar = progress.add_task("judging", total=len(rows)) if progress else None

    def advance_bar() -> None:
        if progress and bar is not None:
            progress.advance(bar)

    asking = JudgeQueue(judge.ajudge, find_stored, output.add if output else lambda _: None, advance_bar)
    try:
        asyncio.run(asking.judge_all(rows, config.concurrency))
    finally:
        judge.close()
    result.judgments, result.lost = asking.collect_in_order(rows)
    result.hits = getattr(engine, "hits", None)
    result.requests = (result.hits or 0) + getattr(engine, "misses", 0)
    if output:
        output.finish(result.judgments, lost=result.lost)
    return result


class JudgeQueue:
    """Rows on their way through a judge."""

    def __init__(
        self,
        ask: Callable[[Comparison], Awaitable[Judgment]],
        kept: Callable[[JudgeableRow, Comparison], Judgment | None],
        add: Callable[[Judgment], None],
        advance: Callable[[], None],
    ) -> None:
        """
        Args:
            ask: judges a comparison: `FlexJudge.ajudge`, or that of a service.
            kept: what was judged before.
            add: is given what is judged now.
            advance: is called when a row is done.
        """
        self._ask, self._kept, self._add, self._advance = ask, kept, add, advance
        self._found: dict[str, Judgment] = {}
        self._lost: dict[str, str] = {}

    async def judge_all(self, rows: Sequence[JudgeableRow], concurrency: int) -> None:
        """Judge rows, so many at a time.

        Raises:
            EngineLostError: the engine died.
            LedgerError: what is judged cannot be recorded.
        """
        waiting = iter(rows)

        async def judge_waiting_rows() -> None:
            for row in waiting:
                await self._judge_row(row)
                self._advance()

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, len(rows))):
                    tasks.create_task(judge_waiting_rows())
        except ExceptionGroup as e:  # a lost engine loses all that were under way, in the same words
            raise e.exceptions[0] from e

    def collect_in_order(self, rows: Sequence[JudgeableRow]) -> tuple[list[Judgment], dict[str, str]]:
        """The judgments of rows, and why others have none, see `Result`."""
        found = [self._found[row.id] for row in rows if row.id in self._found]
        return found, {row.id: self._lost[row.id] for row in rows if row.id in self._lost}

    async def _judge_row(self, row: JudgeableRow) -> None:
        """Judge a row, or note why it cannot be: its own fault does not hold up the others."""
        try:
            comparison = await asyncio.to_thread(row.load_comparison)  # which reads files
        except UsageError as e:
            self._lost[row.id] = to_one_line(e)
            return
        try:
            judgment = self._kept(row, comparison)
            if judgment is not None:
                self._found[row.id] = judgment
                return
            judgment = await self._ask(comparison)
        except LedgerError:
            raise  # what cannot be recorded ends the run
        except (NotRecordedError, RenderError, UsageError) as e:
            self._lost[row.id] = f"{row.where}: {to_one_line(e).removeprefix(f'comparison {row.id!r}: ')}"
            return
        self._found[row.id] = judgment
        self._add(judgment)
