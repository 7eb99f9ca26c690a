"""`flex-judge eval NAME`: a benchmark's items through a judge, or through its stored replies, to figures.

A run folder holds `judgments.jsonl`, which grows as items are judged and is what a rerun goes on from, the judge's
ledger, `items.jsonl` (what each item came to), `summary.json` and `report.html`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import platform
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark, BenchmarkSpec
from flex_judge.experiments.benchmarks.data import BenchmarkData, open_data
from flex_judge.experiments.benchmarks.items import Item, ItemOutcome, ItemRun, make_placeholder_judgment
from flex_judge.experiments.benchmarks.replies import replay_replies
from flex_judge.experiments.benchmarks.stored import match_replies
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.experiments.commands.eval.page import write_benchmark_page
from flex_judge.experiments.commands.eval.summary import build_item_row, build_summary
from flex_judge.experiments.commands.judge.run import JudgeQueue
from flex_judge.experiments.common.console import build_progress, redirect_libraries
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.engines import load_engine
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import Journal, write_rows, write_text
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison
from flex_judge.reward.serving.cluster import connect
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

if TYPE_CHECKING:
    from rich.progress import Progress

JUDGMENTS, ITEMS = "judgments.jsonl", "items.jsonl"


def main(benchmark: Benchmark, config: EvalRun) -> dict[str, Any]:
    """Run a benchmark, or go on with a run.

    Returns:
        The summary, see `summary.summarised`; where there is a folder, as written to its `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
        EngineLostError: the judge died. What it judged is kept, and the same run goes on from there.
    """
    spec = benchmark.spec
    data = open_data(_get_data_names(spec, config), spec.patterns, spec.expected, spec.columns)
    every = benchmark.parse_items(data)
    if config.replay:
        return _run_replay(benchmark, config, data, every)
    every = benchmark.mark_missing_media(every)
    if all(item.label is None for item in every):
        raise UsageError(f"{data.name}: no item can be judged, as {every[0].left_out}")
    items = select_items(benchmark, config, data, every)
    config.check_models()
    out = Path(config.out or f"runs/eval-{spec.name}")
    with RunFolder(out, config.build_identity(benchmark.spec.name, data.digest, None)) as folder:
        with (
            redirect_libraries(out / "engines.log") as console,
            build_progress(console) as progress,
            folder.time_phase("judging"),
        ):
            outcomes = _BenchmarkRun(config, items, out.resolve(), progress).collect_outcomes()
        return _write_results(benchmark, config, data, outcomes, folder)


def select_items(benchmark: Benchmark, config: EvalRun, data: BenchmarkData, every: Sequence[Item]) -> list[Item]:
    """The items of the tasks that are asked for, of every item of the data.

    Raises:
        UsageError: there is no such task, or the data have no item of one.
    """
    for name in config.task:
        if name not in benchmark.spec.tasks:
            raise UsageError(f"--task {name}: {benchmark.spec.name} has {', '.join(benchmark.spec.tasks)}")
    found = []
    for name in config.task or benchmark.spec.tasks:
        of_task = [item for item in every if item.task == name]
        if not of_task and config.task:
            raise UsageError(f"{data.name}: has no item of the task {name!r}; expected {benchmark.spec.expected}")
        found += of_task if config.limit is None else _select_evenly(of_task, config.limit)
    if not found:
        raise UsageError(f"{data.name}: has no item; expected {benchmark.spec.expected}")
    asked = Counter(ask.id for item in found for ask in item.make_runs(config.runs))
    if len(asked) < len(found) * config.runs:
        repeated = next(name for name, times in asked.items() if times > 1)
        raise UsageError(f"{data.name}: the id {repeated!r} is that of several items, or of one and another's run")
    return found


def _get_data_names(spec: BenchmarkSpec, config: EvalRun) -> tuple[str, ...]:
    names = config.data or spec.hub
    if not names:
        raise UsageError(f"--data is needed: {spec.expected}")
    return names


def _select_evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly spaced, so that every source is among them."""
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]


def _run_replay(benchmark: Benchmark, config: EvalRun, data: BenchmarkData, every: Sequence[Item]) -> dict[str, Any]:
    config.check_replay(benchmark.spec.protocol)
    file = Path(str(config.replay))
    stored = match_replies(file, every)
    items = select_items(benchmark, config, data, every)
    labelled = [item for item in items if item.label is not None]
    outcomes = [
        replay_replies(item, stored.get(item.id), config.judge.settings.order, benchmark.spec.formats)
        for item in labelled
    ]
    outcomes += [ItemOutcome(item, ()) for item in items if item.label is None]
    if config.out is None:
        return build_summary(benchmark, config, data, outcomes)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with RunFolder(Path(config.out), config.build_identity(benchmark.spec.name, data.digest, digest)) as folder:
        judgments = [one for outcome in outcomes for one in outcome.judgments]
        write_rows(folder.path / JUDGMENTS, [judgment.to_json() for judgment in judgments])
        return _write_results(benchmark, config, data, outcomes, folder)


def _write_results(
    benchmark: Benchmark, config: EvalRun, data: BenchmarkData, outcomes: Sequence[ItemOutcome], folder: RunFolder
) -> dict[str, Any]:
    summary = build_summary(benchmark, config, data, outcomes, folder.path)
    summary["seconds"] = {**folder.seconds, "total": folder.total_seconds}
    write_rows(folder.path / ITEMS, [build_item_row(benchmark, outcome) for outcome in outcomes])
    write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_benchmark_page(folder.path)
    return summary


class _BenchmarkRun:
    """The items of a run on their way through the judge."""

    def __init__(self, config: EvalRun, items: Sequence[Item], out: Path, progress: Progress) -> None:
        self.config, self.items, self.out, self.progress = config, items, out, progress

    def collect_outcomes(self) -> list[ItemOutcome]:
        """What all items came to; what an earlier start judged is not judged again."""
        asks = [ask for item in self.items if item.label is not None for ask in item.make_runs(self.config.runs)]
        with Journal(self.out / JUDGMENTS) as journal:
            found = {name: Judgment.from_json(row) for name, row in journal.rows.items()}
            todo = [ask for ask in asks if ask.id not in found or not found[ask.id].status.is_final]
            lost: dict[str, str] = {}
            if todo:
                made, lost = self._judge_asks(todo, journal, len(asks) - len(todo))
                found |= {judgment.id: judgment for judgment in made}
        judgments = {name: make_placeholder_judgment(name, why) for name, why in lost.items()} | found
        return [
            ItemOutcome(
                item,
                tuple(
                    judgments[ask.id] for ask in (item.make_runs(self.config.runs) if item.label is not None else ())
                ),
            )
            for item in self.items
        ]

    def _judge_asks(
        self, todo: Sequence[ItemRun], journal: Journal, done: int
    ) -> tuple[list[Judgment], dict[str, str]]:
        def make_queue(judge: Callable[[Comparison], Awaitable[Judgment]]) -> JudgeQueue:
            bar = self.progress.add_task("judging", total=done + len(todo), completed=done)
            return JudgeQueue(
                judge,
                lambda _row, _comparison: None,
                lambda made: journal.append(made.to_json()),
                lambda: self.progress.advance(bar),
            )

        if self.config.needs_ray:
            return asyncio.run(self._judge_on_ray(todo, make_queue))
        loading = self.progress.add_task("loading the judge", total=None)
        config = self.config.build_judge_config(str(self.out))
        judge = FlexJudge(load_engine(config.engine), config.settings)
        self.progress.update(loading, total=1, completed=1)
        try:
            work = make_queue(judge.ajudge)
            asyncio.run(work.judge_all(todo, self.config.concurrency))
            return work.collect_in_order(todo)
        finally:
            judge.close()

    async def _judge_on_ray(
        self, todo: Sequence[ItemRun], asking: Callable[[Callable[[Comparison], Awaitable[Judgment]]], JudgeQueue]
    ) -> tuple[list[Judgment], dict[str, str]]:
        starting = self.progress.add_task("starting Ray", total=None)
        # Of this folder only: on a shared cluster, others may have runs too.
        name = hashlib.sha256(f"{platform.node()}:{self.out}".encode()).hexdigest()[:8]
        with connect(self.config.address) as cluster:
            judge = self.config.build_judge_config(str(self.out))
            config = ServiceConfig(judge, self.config.replicas, name=f"flex-judge-eval-{name}").place_on(cluster)
            async with JudgeService(config, private=True) as service:
                await service.wait_until_ready()
                self.progress.update(starting, total=1, completed=1)
                work = asking(service.judge)
                await work.judge_all(todo, max(self.config.concurrency, 2 * config.max_requests))
                return work.collect_in_order(todo)
