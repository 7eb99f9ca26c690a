"""`flex-judge eval NAME`: judge the items of a benchmark, or read stored replies, and compute metrics.

A run folder holds `judgments.jsonl`, which grows as items are judged and lets an interrupted run resume; the ledger of
the judge; `items.jsonl` with the result of each item; `summary.json` and `report.html`.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark, BenchmarkSpec
from flex_judge.experiments.benchmarks.data import BenchmarkData, open_data
from flex_judge.experiments.benchmarks.items import Item, ItemOutcome, ItemRun, make_placeholder_judgment
from flex_judge.experiments.benchmarks.labelled import Labelled
from flex_judge.experiments.benchmarks.replies import replay_replies
from flex_judge.experiments.benchmarks.stored import match_replies
from flex_judge.experiments.commands.eval.config import EvalRun, LabelledRun
from flex_judge.experiments.commands.eval.engines import EngineSource, OwnEngine
from flex_judge.experiments.commands.eval.summary import build_item_row, build_summary
from flex_judge.experiments.commands.judge.run import JudgeQueue
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.judging import ServiceJudge
from flex_judge.experiments.common.progress import Progress, show_ray_start
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import interrupt_on_stop, run_async
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.comparison_rows import COMPARISON, input_to_json
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import Journal, write_rows, write_text
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison
from flex_judge.reward.serving.cluster import connect
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

AskJudge = Callable[[Comparison], Awaitable[Judgment]]

JUDGMENTS, ITEMS = "judgments.jsonl", "items.jsonl"


@dataclass(frozen=True)
class PreparedRun:
    """Benchmark run whose data are read and checked."""

    benchmark: Benchmark
    config: EvalRun
    data: BenchmarkData
    items: Sequence[Item]
    """Selected items, also those without a label."""
    replayed: Sequence[ItemOutcome] = ()
    """Outcomes of stored replies."""


def main(benchmark: Benchmark, config: EvalRun) -> dict[str, Any]:
    """Start or resume a benchmark run.

    Returns:
        The summary, see `summary.build_summary`; with an output folder, as written to its `summary.json`.

    Raises:
        UsageError: Bad input; nothing was started.
        EngineLostError: The judge died. Finished judgments are saved, and the same command resumes the run.
    """
    if isinstance(config, LabelledRun):
        benchmark = Labelled(config.rubric)
    prepared = prepare_run(benchmark, config)
    if not config.replay:
        config.check_models()
    return execute_run(prepared, OwnEngine())


def prepare_run(benchmark: Benchmark, config: EvalRun) -> PreparedRun:
    """Read and check the data of a benchmark run, and the stored replies of a replay.

    Raises:
        UsageError: Data or replies are missing or invalid, or do not fit the settings.
    """
    spec = benchmark.spec
    config.check_service(spec.protocol, own=("seed",))
    data = open_data(_get_data_names(spec, config), spec.patterns, spec.expected, spec.columns, config.columns)
    all_items = benchmark.parse_items(data)
    if config.replay:
        return _prepare_replay(benchmark, config, data, all_items)
    if config.replay_format:
        raise UsageError("--replay-format needs --replay FILE; add it, or leave out --replay-format")
    # A replay needs no media, so only a run with a model looks for them.
    all_items = benchmark.mark_missing_media(all_items)
    if all(item.label is None for item in all_items):
        raise UsageError(f"{data.name}: no item can be judged, as {all_items[0].left_out}")
    return PreparedRun(benchmark, config, data, select_items(benchmark, config, data, all_items))


def execute_run(prepared: PreparedRun, engines: EngineSource, title: str = "judging") -> dict[str, Any]:
    """Judge the items of a run, or score its stored replies, and write the results.

    Args:
        prepared: The run.
        engines: Source of the engine of a judge in this process.
        title: Name of the phase in the progress.

    Returns:
        The summary, see `main`.
    """
    benchmark, config, data = prepared.benchmark, prepared.config, prepared.data
    if config.replay:
        return _execute_replay(prepared)
    with build_run_folder(prepared) as folder:
        folder.expect_rows(
            sum(len(item.make_runs(config.runs)) for item in prepared.items if item.label is not None), "judgment"
        )
        with (
            redirect_libraries(folder.path / "engines.log") as console,
            Progress(console) as progress,
            folder.time_phase("judging"),
        ):
            run = _BenchmarkRun(config, prepared.items, folder.path.resolve(), progress, engines, title)
            outcomes = run.collect_outcomes()
        return _write_results(benchmark, config, data, outcomes, folder)


def build_run_folder(prepared: PreparedRun) -> RunFolder:
    """Describe the run folder of a run by the settings that determine its results; nothing is written."""
    config, name = prepared.config, prepared.benchmark.spec.name
    replies = hashlib.sha256(Path(config.replay).read_bytes()).hexdigest() if config.replay else None
    identity = config.build_identity(name, prepared.data.digest, replies)
    return RunFolder(Path(config.out or f"runs/eval-{name}"), identity, kind="eval")


def select_items(benchmark: Benchmark, config: EvalRun, data: BenchmarkData, items: Sequence[Item]) -> list[Item]:
    """Select the items of the requested tasks, at most `--limit` per task.

    Raises:
        UsageError: A task does not exist or has no item in the data, or two runs of items would have the same id.
    """
    for name in config.task:
        if name not in benchmark.spec.tasks:
            raise UsageError(f"--task {name}: {benchmark.spec.name} has {', '.join(benchmark.spec.tasks)}")
    selected: list[Item] = []
    for name in config.task or benchmark.spec.tasks:
        task_items = [item for item in items if item.task == name]
        if not task_items and config.task:
            raise UsageError(f"{data.name}: has no item of the task {name!r}; expected {benchmark.spec.expected}")
        selected += (
            task_items
            if config.limit is None
            else benchmark.select_sample(task_items, config.limit, config.judge.settings.seed)
        )
    if not selected:
        raise UsageError(f"{data.name}: has no item; expected {benchmark.spec.expected}")
    # Ids of repeated runs have a suffix, which must not make them equal to the id of another item.
    ids = Counter(item_run.id for item in selected for item_run in item.make_runs(config.runs))
    if len(ids) < len(selected) * config.runs:
        repeated = next(item_id for item_id, times in ids.items() if times > 1)
        raise UsageError(f"{data.name}: id: {repeated!r} occurs more than once; make the ids unique")
    return selected


def _get_data_names(spec: BenchmarkSpec, config: EvalRun) -> tuple[str, ...]:
    names = config.data or spec.hub
    if not names:
        raise UsageError(f"--data is missing; expected {spec.expected}")
    return names


def _prepare_replay(
    benchmark: Benchmark, config: EvalRun, data: BenchmarkData, all_items: Sequence[Item]
) -> PreparedRun:
    config.check_replay(benchmark.spec.protocol)
    formats = config.list_reply_formats(benchmark.spec.formats, benchmark.spec.other_formats)
    # Before the selection, because replies may number the items, and those numbers count all items of the data.
    replies = match_replies(Path(str(config.replay)), all_items)
    items = select_items(benchmark, config, data, all_items)
    outcomes = [
        replay_replies(item, replies.get(item.id), config.judge.settings.order, formats)
        for item in items
        if item.label is not None
    ]
    outcomes += [ItemOutcome(item, ()) for item in items if item.label is None]
    return PreparedRun(benchmark, config, data, items, outcomes)


def _execute_replay(prepared: PreparedRun) -> dict[str, Any]:
    benchmark, config, data = prepared.benchmark, prepared.config, prepared.data
    outcomes = prepared.replayed
    if config.out is None:
        return build_summary(benchmark, config, data, outcomes)
    with build_run_folder(prepared) as folder:
        write_rows(folder.path / JUDGMENTS, (row for outcome in outcomes for row in _build_judgment_rows(outcome)))
        return _write_results(benchmark, config, data, outcomes, folder)


def _build_judgment_rows(outcome: ItemOutcome) -> list[dict[str, Any]]:
    row = outcome.item.row
    comparison = input_to_json(row.data, row.rubric, row.where)
    return [{**judgment.to_json(), COMPARISON: comparison} for judgment in outcome.judgments]


def _write_results(
    benchmark: Benchmark, config: EvalRun, data: BenchmarkData, outcomes: Sequence[ItemOutcome], folder: RunFolder
) -> dict[str, Any]:
    summary = build_summary(benchmark, config, data, outcomes, folder.path)
    summary["seconds"] = {**folder.seconds, "total": folder.total_seconds}
    write_rows(folder.path / ITEMS, [build_item_row(benchmark, outcome) for outcome in outcomes])
    write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
    return summary


class _BenchmarkRun:
    """Judging of the items of a run, in this process or on Ray."""

    def __init__(
        self,
        config: EvalRun,
        items: Sequence[Item],
        out: Path,
        progress: Progress,
        engines: EngineSource,
        title: str,
    ) -> None:
        self.config, self.items, self.out, self.progress = config, items, out, progress
        self.engines, self.title = engines, title

    def collect_outcomes(self) -> list[ItemOutcome]:
        """Judge the items that earlier starts have not judged, and return the outcomes of all items."""
        item_runs = {item.id: self._make_runs(item) for item in self.items}
        all_runs = [item_run for runs in item_runs.values() for item_run in runs]
        with Journal(self.out / JUDGMENTS) as journal:
            judgments = {id_: Judgment.from_json(row) for id_, row in journal.rows.items()}
            pending = [run for run in all_runs if run.id not in judgments or _needs_judging(judgments[run.id])]
            errors: dict[str, str] = {}
            if pending:
                new_judgments, errors = self._judge_runs(pending, journal, len(all_runs) - len(pending))
                judgments |= {judgment.id: judgment for judgment in new_judgments}
        judgments |= {run_id: make_placeholder_judgment(run_id, error) for run_id, error in errors.items()}
        return [ItemOutcome(item, tuple(judgments[run.id] for run in item_runs[item.id])) for item in self.items]

    def _make_runs(self, item: Item) -> list[ItemRun]:
        """Make the runs of an item; an item without a label has none."""
        return item.make_runs(self.config.runs) if item.label is not None else []

    def _judge_runs(
        self, pending: Sequence[ItemRun], journal: Journal, num_done: int
    ) -> tuple[list[Judgment], dict[str, str]]:
        async def judge_all(judge: AskJudge, concurrency: int) -> tuple[list[Judgment], dict[str, str]]:
            with self.progress.show_phase(self.title, total=num_done + len(pending), done=num_done) as phase:
                queue = JudgeQueue(judge, lambda _row, _comparison: None, journal.append, phase)
                await queue.judge_all(pending, concurrency)
                return queue.collect_in_order(pending)

        if (service := self.config.find_service(self.config.concurrency)) is not None:
            return run_async(judge_all(ServiceJudge(service).ask, self.config.concurrency))
        if self.config.needs_ray:
            return run_async(self._judge_on_ray(judge_all))
        config = self.config.build_judge_config(str(self.out))
        with self.engines.open_engine(config.engine, self.progress) as engine:
            judge = FlexJudge(engine, config.settings)
            return run_async(judge_all(judge.ajudge, self.config.concurrency))

    async def _judge_on_ray(
        self, judge_all: Callable[[AskJudge, int], Awaitable[tuple[list[Judgment], dict[str, str]]]]
    ) -> tuple[list[Judgment], dict[str, str]]:
        # The name is unique to this folder, because others may have runs on a shared cluster.
        suffix = hashlib.sha256(f"{platform.node()}:{self.out}".encode()).hexdigest()[:8]
        with ExitStack() as stack:
            with show_ray_start(self.progress, self.config.address, self.config.start_timeout_s), interrupt_on_stop():
                cluster = stack.enter_context(connect(self.config.address, self.config.start_timeout_s))
            judge = self.config.build_judge_config(str(self.out))
            config = ServiceConfig(judge, self.config.replicas, name=f"flex-judge-eval-{suffix}").place_on(cluster)
            async with JudgeService(config, private=True) as service:
                with self.progress.show_phase("loading the judge") as loading:
                    await service.wait_until_ready(loading.report_replicas)
                # Twice what the replicas compute, so that none of them waits for the next request.
                return await judge_all(service.judge, max(self.config.concurrency, 2 * config.max_requests))


def _needs_judging(judgment: Judgment) -> bool:
    """Return whether another try may give a verdict: also for invalid input, as the user may have fixed the file."""
    return not judgment.status.is_final or judgment.status == Status.INVALID_INPUT
