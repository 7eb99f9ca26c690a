"""A run over prompts from start to end: the cluster, the services, the shards, progress, and the joined results."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.pipeline.job import Job, WorkPlan, choose_shard_rows, count_shards
from flex_judge.alignment.pipeline.models import Models, RemoteJudge, ServedModels
from flex_judge.alignment.pipeline.policy_service import PolicyService, PolicyServiceConfig
from flex_judge.alignment.pipeline.runner import list_pending_shards, stream_reports
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport, sum_reports
from flex_judge.alignment.pipeline.worker import FAILED_TABLE
from flex_judge.alignment.policies.config import PolicyConfig
from flex_judge.experiments.common.console import build_progress, redirect_libraries
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S, compute_gpu_share
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

AHEAD = 2
"""Prompts under way for each that the judges have room for, so that neither they nor the policy wait for the other."""
WORKER_ROWS = 256
"""Prompts that one worker has under way at most; there are more workers for more."""


@dataclass(frozen=True)
class CompletedRun:
    """The results of a run whose shards are all there."""

    shard_folder: ShardFolder
    reports: Mapping[int, ShardReport]
    """By shard."""

    @property
    def report(self) -> ShardReport:
        """What became of all rows."""
        return sum_reports(list(self.reports.values()))

    def join_table(self, table: str, path: Path) -> None:
        """Write a table to one file."""
        self.shard_folder.join_table(table, self.reports, path)

    def iterate_rows(self, table: str) -> Iterator[dict[str, Any]]:
        """The rows of a table in the order of the prompts."""
        return self.shard_folder.read_table_rows(table, self.reports)


@contextlib.contextmanager
def complete_run(
    config: DataFlags,
    source: Source,
    file: str | None,
    plan: Callable[[Models], WorkPlan],
    comparisons: int,
    identity: Mapping[str, object],
) -> Iterator[tuple[RunFolder, CompletedRun]]:
    """The folder of a run and its results, after what was missing of it has been done. The folder is this process's
    until the end.

    Args:
        source, file: the prompts, and what the command line calls them; see DataRun for `plan` and `comparisons`.
        identity: what determines the results beside the settings that all runs have.

    Raises:
        UsageError: the folder cannot be used.
        JudgeError: what ended the run. What was done is kept, and the same run goes on from there.
    """
    with RunFolder(Path(config.out), {**config.build_identity(source, file), **identity}) as folder:
        with redirect_libraries(folder.path / "engines.log") as console, build_progress(console) as progress:
            done = DataRun(config, source, file, folder, plan, comparisons, console, progress).complete()
        yield folder, done


@dataclass(frozen=True)
class RunServices:
    """The policy and the judge of a run, on one Ray cluster."""

    config: DataFlags
    folder: RunFolder
    console: Console
    progress: Progress

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]]:
        """Start the services, wait until they are ready, and yield their configurations."""
        async with contextlib.AsyncExitStack() as stack:
            with self._track_step("starting Ray"):
                cluster = stack.enter_context(connect(self.config.address))
            policy, judge = self._place_services(cluster)
            # Who holds the folder's lock is alone with these names.
            services: list[JudgeService | PolicyService] = [PolicyService(policy, private=True)]
            if isinstance(judge, ServiceConfig):
                services.insert(0, JudgeService(judge, private=True))
            for service in services:
                await stack.enter_async_context(service)
            with self._track_step("models starting"):
                for service in services:
                    await service.wait_until_ready()
            yield policy, judge
            self.console.print("stopping Ray" if cluster.local else "leaving Ray")

    def _place_services(self, cluster: Cluster) -> tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]:
        """Both services with their shares of the cluster: every engine gets as much as every other."""
        config = self.config
        policy, elsewhere = config.policy_config, config.external_judge
        computes = policy.url is None
        engines = config.replicas * (elsewhere is None) + config.policy_replicas * computes
        gpus = compute_gpu_share(cluster.gpus, engines) if engines else 0.0
        cpus = 1.0 if gpus or not cluster.local else cluster.cpus / max(1, engines)
        if computes:
            policy = _apply_share(policy, cpus, gpus)
        policies = PolicyServiceConfig(
            policy, config.policy_replicas, self._name_service("policy"), cpus * computes, gpus * computes
        )
        if elsewhere is not None:
            return policies, elsewhere
        judge = ServiceConfig(
            config.judge_config,
            config.replicas,
            name=self._name_service("judge"),
            cpus_per_replica=cpus,
            gpus_per_replica=gpus,
            drain_s=PRIVATE_DRAIN_S,
        )
        return policies, judge.place_on(cluster)

    def _name_service(self, part: str) -> str:
        """Of this folder only: on a shared cluster, others may have runs too."""
        folder = f"{platform.node()}:{self.folder.path.resolve()}"
        return f"flex-judge-{part}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"

    @contextlib.contextmanager
    def _track_step(self, title: str) -> Iterator[None]:
        """A line of progress and a clock around something that takes a while."""
        task = self.progress.add_task(title, total=None)
        with self.folder.time_phase(title.replace(" ", "_")):
            yield
        self.progress.update(task, total=1, completed=1)
        self.progress.stop_task(task)


@dataclass(frozen=True)
class DataRun:
    """A run, and where it shows itself."""

    config: DataFlags
    source: Source
    file: str | None
    """The prompts as the command line names them; None for the embedded task."""
    folder: RunFolder
    plan: Callable[[Models], WorkPlan]
    """What is done with each prompt, given the models."""
    comparisons: int
    """Comparisons of a prompt that are under way at once."""
    console: Console
    progress: Progress

    def complete(self) -> CompletedRun:
        """Work on what is not done yet.

        Raises:
            JudgeError: what ended the run. What was done is kept, and the same run goes on from there.
        """
        shard_folder = ShardFolder(self.folder.path.resolve() / "shards")
        shard_rows = choose_shard_rows(len(self.source))
        shards = count_shards(len(self.source), shard_rows)
        if todo := list_pending_shards(shard_folder, shards, self.config.retry_rejected):
            asyncio.run(self._process_shards(shard_folder, shard_rows, todo))
        else:
            self.console.print(f"{self.folder.path} is complete: nothing is sampled or judged again", soft_wrap=True)
        done = CompletedRun(shard_folder, shard_folder.read_reports())
        done.join_table(FAILED_TABLE, self.folder.path / f"{FAILED_TABLE}.jsonl")
        return done

    async def _process_shards(self, shard_folder: ShardFolder, shard_rows: int, todo: list[int]) -> None:
        async with RunServices(self.config, self.folder, self.console, self.progress).start() as (policy, judge):
            at_once = AHEAD * max(1, judge.max_requests // self.comparisons)
            workers = -(-at_once // WORKER_ROWS)
            job = Job(
                self.source,
                self.plan(ServedModels(policy, judge)),
                shard_folder.folder,
                self.config.build_columns(self.file),
                shard_rows,
                rows_at_once=-(-at_once // workers),
                workers=workers,
                shards_at_once=max(2, -(-2 * at_once // (workers * shard_rows))),
                retry_rejected=self.config.retry_rejected,
            )
            total = len(self.source)
            bar = self.progress.add_task("sampling and judging", total=total, completed=total - _count_rows(job, todo))
            with self.folder.time_phase("work"):
                async for report in stream_reports(job):
                    self.progress.advance(bar, report.rows)


def _apply_share(policy: PolicyConfig, cpus: float, gpus: float) -> PolicyConfig:
    """The policy with its share of a machine, as `ServiceConfig.placed_on` shares it among judges."""
    if gpus:
        share = round(policy.gpu_memory_utilization * gpus, 3)
        return replace(policy, own_process=True, gpu_memory_utilization=share)
    return replace(policy, threads=policy.threads or max(1, int(cpus)))


def _count_rows(job: Job, shards: list[int]) -> int:
    return sum(stop - start for start, stop in map(job.get_row_range, shards))
