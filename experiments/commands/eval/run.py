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

from flex_judge.experiments.benchmarks.benchmark import Benchmark, Spec
from flex_judge.experiments.benchmarks.data import Data, open_data
from flex_judge.experiments.benchmarks.items import Ask, Item, Outcome, not_judged
from flex_judge.experiments.benchmarks.replies import replayed
from flex_judge.experiments.benchmarks.stored import matched
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.experiments.commands.eval.page import write_page
from flex_judge.experiments.commands.eval.summary import item_row, summarised
from flex_judge.experiments.commands.judge.run import Asking
from flex_judge.experiments.common.console import libraries_to, progress_on
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
    data = open_data(_data_names(spec, config), spec.patterns, spec.expected, spec.columns)
    every = benchmark.items(data)
    if config.replay:
        return _replay(benchmark, config, data, every)
    every = benchmark.present(every)
    if all(item.label is None for item in every):
        raise UsageError(f"{data.name}: no item can be judged, as {every[0].left_out}")
    items = chosen(benchmark, config, data, every)
    config.check()
    out = Path(config.out or f"runs/eval-{spec.name}")
    with RunFolder(out, config.identity(benchmark.spec.name, data.digest, None)) as folder:
        with libraries_to(out / "engines.log") as console, progress_on(console) as progress, folder.phase("judging"):
            outcomes = _Judging(config, items, out.resolve(), progress).outcomes()
        return _written(benchmark, config, data, outcomes, folder)


def chosen(benchmark: Benchmark, config: EvalRun, data: Data, every: Sequence[Item]) -> list[Item]:
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
        found += of_task if config.limit is None else _spread(of_task, config.limit)
    if not found:
        raise UsageError(f"{data.name}: has no item; expected {benchmark.spec.expected}")
    asked = Counter(ask.id for item in found for ask in item.asks(config.runs))
    if len(asked) < len(found) * config.runs:
        repeated = next(name for name, times in asked.items() if times > 1)
        raise UsageError(f"{data.name}: the id {repeated!r} is that of several items, or of one and another's run")
    return found


def _data_names(spec: Spec, config: EvalRun) -> tuple[str, ...]:
    names = config.data or spec.hub
    if not names:
        raise UsageError(f"--data is needed: {spec.expected}")
    return names


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many items, evenly spaced, so that every source is among them."""
    if len(items) <= most:
        return list(items)
    return [items[k * len(items) // most] for k in range(most)]


def _replay(benchmark: Benchmark, config: EvalRun, data: Data, every: Sequence[Item]) -> dict[str, Any]:
    config.check_replay(benchmark.spec.protocol)
    file = Path(str(config.replay))
    stored = matched(file, every)
    items = chosen(benchmark, config, data, every)
    labelled = [item for item in items if item.label is not None]
    outcomes = [
        replayed(item, stored.get(item.id), config.judge.settings.order, benchmark.spec.formats) for item in labelled
    ]
    outcomes += [Outcome(item, ()) for item in items if item.label is None]
    if config.out is None:
        return summarised(benchmark, config, data, outcomes)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with RunFolder(Path(config.out), config.identity(benchmark.spec.name, data.digest, digest)) as folder:
        judgments = [one for outcome in outcomes for one in outcome.judgments]
        write_rows(folder.path / JUDGMENTS, [judgment.to_json() for judgment in judgments])
        return _written(benchmark, config, data, outcomes, folder)


def _written(
    benchmark: Benchmark, config: EvalRun, data: Data, outcomes: Sequence[Outcome], folder: RunFolder
) -> dict[str, Any]:
    summary = summarised(benchmark, config, data, outcomes, folder.path)
    summary["seconds"] = {**folder.seconds, "total": folder.total_seconds}
    write_rows(folder.path / ITEMS, [item_row(benchmark, outcome) for outcome in outcomes])
    write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_page(folder.path)
    return summary


class _Judging:
    """The items of a run on their way through the judge."""

    def __init__(self, config: EvalRun, items: Sequence[Item], out: Path, progress: Progress) -> None:
        self.config, self.items, self.out, self.progress = config, items, out, progress

    def outcomes(self) -> list[Outcome]:
        """What all items came to; what an earlier start judged is not judged again."""
        asks = [ask for item in self.items if item.label is not None for ask in item.asks(self.config.runs)]
        with Journal(self.out / JUDGMENTS) as journal:
            found = {name: Judgment.from_json(row) for name, row in journal.rows.items()}
            todo = [ask for ask in asks if ask.id not in found or not found[ask.id].status.is_final]
            lost: dict[str, str] = {}
            if todo:
                made, lost = self._judge(todo, journal, len(asks) - len(todo))
                found |= {judgment.id: judgment for judgment in made}
        judgments = {name: not_judged(name, why) for name, why in lost.items()} | found
        return [
            Outcome(
                item,
                tuple(judgments[ask.id] for ask in (item.asks(self.config.runs) if item.label is not None else ())),
            )
            for item in self.items
        ]

    def _judge(self, todo: Sequence[Ask], journal: Journal, done: int) -> tuple[list[Judgment], dict[str, str]]:
        def asking(judge: Callable[[Comparison], Awaitable[Judgment]]) -> Asking:
            bar = self.progress.add_task("judging", total=done + len(todo), completed=done)
            return Asking(
                judge,
                lambda _row, _comparison: None,
                lambda made: journal.append(made.to_json()),
                lambda: self.progress.advance(bar),
            )

        if self.config.on_ray:
            return asyncio.run(self._on_ray(todo, asking))
        loading = self.progress.add_task("loading the judge", total=None)
        config = self.config.judge_in(str(self.out))
        judge = FlexJudge(load_engine(config.engine), config.settings)
        self.progress.update(loading, total=1, completed=1)
        try:
            work = asking(judge.ajudge)
            asyncio.run(work.all(todo, self.config.concurrency))
            return work.in_order(todo)
        finally:
            judge.close()

    async def _on_ray(
        self, todo: Sequence[Ask], asking: Callable[[Callable[[Comparison], Awaitable[Judgment]]], Asking]
    ) -> tuple[list[Judgment], dict[str, str]]:
        starting = self.progress.add_task("starting Ray", total=None)
        # Of this folder only: on a shared cluster, others may have runs too.
        name = hashlib.sha256(f"{platform.node()}:{self.out}".encode()).hexdigest()[:8]
        with connect(self.config.address) as cluster:
            judge = self.config.judge_in(str(self.out))
            config = ServiceConfig(judge, self.config.replicas, name=f"flex-judge-eval-{name}").placed_on(cluster)
            async with JudgeService(config, private=True) as service:
                await service.ready()
                self.progress.update(starting, total=1, completed=1)
                work = asking(service.judge)
                await work.all(todo, max(self.config.concurrency, 2 * config.room))
                return work.in_order(todo)
