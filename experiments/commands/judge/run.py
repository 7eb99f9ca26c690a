"""`flex-judge judge`: judge comparisons of a file, or one from flags. An interrupted run can be resumed."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.commands.judge.output import JudgmentFile
from flex_judge.experiments.common import start_checks
from flex_judge.experiments.common.judging import LocalJudge, RunJudge, ServiceJudge
from flex_judge.experiments.common.progress import Phase, Progress, show_phase
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.engines import load_engine
from flex_judge.judges.errors import (
    INPUT_ERRORS,
    NotRecordedError,
    describe_input_error,
    is_input_error,
    to_one_line,
)
from flex_judge.judges.io.comparison_rows import COMPARISON, comparison_to_json
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison

_FIELD = re.compile(r"((?:prompt|responses|images?|videos?|audios?|molecules?|tools)(?:\[\d+\]|\.\w+)*): ")
"""Field at the start of a judge's reason."""


class JudgeableRow(Protocol):
    """Row with a comparison: of a file, see `flex_judge.judges.io.files`, or from flags."""

    @property
    def id(self) -> str:
        """Id of the comparison, unique within a run."""
        ...

    @property
    def where(self) -> str:
        """File and row, for error messages."""
        ...

    def load_comparison(self) -> Comparison:
        """Load the comparison with its media.

        Raises:
            UsageError: The media cannot be read; the message starts with `where`.
        """
        ...


@dataclass(frozen=True)
class LoadedRow:
    """Row with a comparison that is in memory already."""

    loaded: Comparison
    where: str = "the comparison"

    @property
    def id(self) -> str:
        """Id of the comparison."""
        return self.loaded.id

    def load_comparison(self) -> Comparison:
        """Return the comparison."""
        return self.loaded


@dataclass
class JudgeResult:
    """Judgments, errors and counts of a run."""

    judgments: list[Judgment] = field(default_factory=list)
    """Judgments in the order of the rows, without rows that are not recorded in a replay."""
    errors: dict[str, str] = field(default_factory=dict)
    """Error of each row that could not be judged, by row id, in the order of the rows. Rows that cannot be judged as
    they are also have a judgment, with the status `invalid_input`."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """JSON values of the judgments, with their comparisons."""
    num_stored: int = 0
    """Number of judgments from earlier runs."""
    hits: int | None = None
    """Number of engine requests that the ledger answered; None without a ledger."""
    requests: int = 0
    """Number of all engine requests; 0 without a ledger."""

    @property
    def failures(self) -> Counter[str]:
        """Number of comparisons without a score, by reason."""
        counts = Counter(str(j.status) for j in self.judgments if j.scores is None)
        if self.missing:
            counts["not judged"] = len(self.missing)
        return counts

    @property
    def missing(self) -> list[str]:
        """Ids of the rows without a judgment."""
        judged = {judgment.id for judgment in self.judgments}
        return [row_id for row_id in self.errors if row_id not in judged]


def check_judge(config: JudgeRun) -> None:
    """Check that the judge can be loaded, without loading it.

    Downloads no weights except the adapter.

    Raises:
        UsageError: The judge cannot be loaded.
        ServiceUnavailableError: No judge service answers at its URL.
    """
    if (service := config.find_service(config.concurrency)) is not None:
        start_checks.check_service_access(service, [config.rubric])
        return
    if config.replay:
        return
    start_checks.check_judge(config.judge_config)
    start_checks.check_engine_memory([config.judge.engine], "the judge", "use a smaller model", uses_ray=False)


def judge_rows(
    config: JudgeRun, rows: Sequence[JudgeableRow], output: JudgmentFile | None = None, progress: Progress | None = None
) -> JudgeResult:
    """Judge rows.

    Args:
        config: Settings of the judge; its `out` is ignored.
        rows: Rows with unique ids.
        output: File to which each judgment is written as soon as it is there. It already
            holds judgments of earlier runs, which are reused if comparison and judge are the same.
        progress: Display of the progress.

    Raises:
        UsageError: The judge cannot be loaded.
        EngineLostError: The engine died; finished judgments are in `output`.
    """
    result = JudgeResult()
    judge: RunJudge
    if (service := config.find_service(config.concurrency)) is not None:
        judge = ServiceJudge(service)
    else:
        with show_phase(progress, "loading the judge", waiting_for=config.engine_config.model):
            engine = load_engine(config.engine_config)
            judge = LocalJudge(FlexJudge(engine, config.build_settings(engine.model_id)))
    # The purpose of a replay is to parse the recorded replies again, so it reuses no stored judgment.
    reusable = output if not config.replay else None

    def find_stored_judgment(row: JudgeableRow, comparison: Comparison) -> Judgment | None:
        if reusable is None:
            return None
        judgment = reusable.find_final_judgment(row.id, judge.compute_key(comparison))
        result.num_stored += judgment is not None
        return judgment

    new_rows: dict[str, dict[str, Any]] = {}

    def keep_row(row: dict[str, Any]) -> None:
        new_rows[row["id"]] = row

    try:
        with show_phase(progress, "judging", total=len(rows)) as phase:
            queue = JudgeQueue(judge.ask, find_stored_judgment, output.add if output else keep_row, phase)
            run_async(queue.judge_all(rows, config.concurrency))
    finally:
        judge.close()
    result.judgments, result.errors = queue.collect_in_order(rows)
    result.hits, misses = judge.count_ledger_requests()
    result.requests = (result.hits or 0) + misses
    if output:
        result.rows = output.finish(result.judgments, missing=result.missing)
    else:
        result.rows = [new_rows[judgment.id] for judgment in result.judgments]
    return result


class JudgeQueue:
    """Queue that judges rows with limited concurrency and collects judgments and errors.

    Args:
        ask: Judge of one comparison, such as `FlexJudge.ajudge` or the method of a service.
        find_stored: Lookup of a stored judgment.
        store: Callback for the row of each new judgment: its JSON values, with the comparison under `COMPARISON`.
        phase: Progress that counts the rows.
    """

    def __init__(
        self,
        ask: Callable[[Comparison], Awaitable[Judgment]],
        find_stored: Callable[[JudgeableRow, Comparison], Judgment | None],
        store: Callable[[dict[str, Any]], None],
        phase: Phase,
    ) -> None:
        self._ask, self._find_stored, self._store, self._phase = ask, find_stored, store, phase
        self._judgments: dict[str, Judgment] = {}
        self._errors: dict[str, str] = {}

    async def judge_all(self, rows: Sequence[JudgeableRow], concurrency: int) -> None:
        """Judge rows, at most `concurrency` at a time.

        Raises:
            EngineLostError: The engine died.
            LedgerError: A generation cannot be recorded.
        """
        pending = iter(rows)

        async def judge_pending_rows() -> None:
            for row in pending:
                self._phase.begin_item()
                await self._judge_row(row)
                judgment = self._judgments.get(row.id)
                self._phase.end_item(failed=judgment is None or judgment.scores is None)

        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(concurrency, len(rows))):
                    tasks.create_task(judge_pending_rows())
        except ExceptionGroup as e:
            # A dead engine raises the same error in every worker, so the first one says it all.
            raise e.exceptions[0] from e

    def collect_in_order(self, rows: Sequence[JudgeableRow]) -> tuple[list[Judgment], dict[str, str]]:
        """Collect the judgments, and the errors by row id, in the order of the rows; see `JudgeResult`."""
        judgments = [self._judgments[row.id] for row in rows if row.id in self._judgments]
        return judgments, {row.id: self._errors[row.id] for row in rows if row.id in self._errors}

    async def _judge_row(self, row: JudgeableRow) -> None:
        """Judge a row, or store its error, so that the other rows continue."""
        try:
            # In a thread, because it reads and decodes media files.
            comparison = await asyncio.to_thread(row.load_comparison)
        except INPUT_ERRORS as e:
            self._reject(row, e)
            return
        try:
            judgment = self._find_stored(row, comparison)
            if judgment is not None:
                self._judgments[row.id] = judgment
                return
            judgment = await self._ask(comparison)
        except NotRecordedError as e:
            self._errors[row.id] = f"{row.where}: {to_one_line(e)}"
            return
        except INPUT_ERRORS as e:
            self._reject(row, e)
            return
        if judgment.status == Status.INVALID_INPUT:
            self._errors[row.id] = problem = _name_row(row, judgment.detail)
            votes = tuple(replace(vote, detail=problem) for vote in judgment.votes)
            judgment = replace(judgment, votes=votes)
        self._judgments[row.id] = judgment
        self._store({**judgment.to_json(), COMPARISON: comparison_to_json(comparison, row.where)})

    def _reject(self, row: JudgeableRow, error: Exception) -> None:
        """Store the error of a row that cannot be judged, and a judgment with it, so that no row is missing.

        Raises:
            Exception: The error itself, if it would fail every row.
        """
        if not is_input_error(error):
            raise error
        problem = describe_input_error(error).removeprefix(f"comparison {row.id!r}: ")
        self._errors[row.id] = problem = _name_row(row, problem)
        judgment = Judgment.from_failure(row.id, Status.INVALID_INPUT, problem, provenance={"row": row.where})
        self._judgments[row.id] = judgment
        self._store({**judgment.to_json(), COMPARISON: {"where": row.where}})


def _name_row(row: JudgeableRow, problem: str) -> str:
    """Start a problem with file, row and, if it starts with a field, this field."""
    file = row.where.rpartition(", ")[0]
    if problem.startswith(row.where) or (file and problem.startswith(f"{file}, line ")):
        return problem
    match = _FIELD.match(problem)
    return f"{row.where}, field {match[1]!r}: {problem[match.end() :]}" if match else f"{row.where}: {problem}"
