"""Execution of a run over prompts: cluster, services, shards, progress, and joined results."""

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
from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.pipeline.models import Models, OpenModels, ServedModels
from flex_judge.alignment.pipeline.policy_service import PolicyService, PolicyServiceConfig
from flex_judge.alignment.pipeline.runner import list_pending_shards, stream_local_reports, stream_reports
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport, sum_reports
from flex_judge.alignment.pipeline.tally import CountedModels, read_counts, remove_counts
from flex_judge.alignment.pipeline.worker import FAILED_TABLE
from flex_judge.alignment.policies.config import PolicyConfig, load_policy
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.progress import Phase, Progress, show_ray_start
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import interrupt_on_stop, run_async
from flex_judge.judges.concurrency import gather_all
from flex_judge.reward.serving.cluster import Cluster, connect
from flex_judge.reward.serving.config import compute_gpu_share
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

if TYPE_CHECKING:
    from rich.console import Console

PROMPTS_PER_SLOT = 2
"""Prompts in progress for each prompt that the judges can take, so that policy and judges never wait for each other."""
POLL_S = 0.5
"""Seconds between two readings of the workers' counts."""
WORKER_ROWS = 256
"""Maximum number of prompts in progress per worker; more prompts get more workers."""


@dataclass(frozen=True)
class CompletedRun:
    """Results of a run after its last shard."""

    shard_folder: ShardFolder
    reports: Mapping[int, ShardReport]
    """Shard number -> its report."""

    @property
    def report(self) -> ShardReport:
        """Sum of the shards' reports."""
        return sum_reports(list(self.reports.values()))

    def join_table(self, table: str, path: Path) -> None:
        """Join the shards of a table into one file."""
        self.shard_folder.join_table(table, self.reports, path)

    def iterate_rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Iterate over the rows of a table in the order of the prompts."""
        return self.shard_folder.read_table_rows(table, self.reports)


@contextlib.contextmanager
def complete_run(
    config: DataFlags,
    source: Source,
    file: str | None,
    plan: Callable[[Models], WorkPlan],
    comparisons: int,
    identity: Mapping[str, object],
    kind: str,
) -> Iterator[tuple[RunFolder, CompletedRun]]:
    """Run or resume a run over prompts; the run folder stays locked within the block.

    Args:
        config: settings of the run.
        source: the prompts.
        file: name of the prompts on the command line; None for the embedded task.
        plan: builds the processing of each prompt from the models.
        comparisons: number of comparisons per prompt that are judged at the same time.
        identity: further settings that determine the results, in addition to those of all runs.
        kind: name of the command.

    Yields:
        The run folder and the results.

    Raises:
        UsageError: the folder cannot be used.
        JudgeError: the run ended early. Finished shards are kept, and running it again resumes.
    """
    settings = {**config.build_identity(source, file), **identity}
    with RunFolder(Path(config.out), settings, kind=kind) as folder:
        folder.expect_rows(len(source), "prompt")
        with redirect_libraries(folder.path / "engines.log") as console, Progress(console) as progress:
            run = DataRun(
                config=config,
                source=source,
                file=file,
                folder=folder,
                plan=plan,
                comparisons=comparisons,
                console=console,
                progress=progress,
            )
            results = run.complete()
        yield folder, results


@dataclass(frozen=True)
class RunServices:
    """Policy and judge services of a run on one Ray cluster."""

    config: DataFlags
    folder: RunFolder
    console: Console
    progress: Progress

    @contextlib.asynccontextmanager
    async def start(self) -> AsyncIterator[tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]]:
        """Start the services, wait until they are ready, and yield their configurations."""
        async with contextlib.AsyncExitStack() as stack:
            address, timeout_s = self.config.address, self.config.start_timeout_s
            with (
                show_ray_start(self.progress, address, timeout_s),
                self.folder.time_phase("starting_Ray"),
                interrupt_on_stop(),
            ):
                cluster = stack.enter_context(connect(address, timeout_s))
            policy, judge = self._place_services(cluster)
            # Names are derived from the run folder, which is locked, so no other process uses them.
            services: list[JudgeService | PolicyService] = [PolicyService(policy, private=True)]
            if isinstance(judge, ServiceConfig):
                services.insert(0, JudgeService(judge, private=True))
            with self.folder.time_phase("models_starting"):
                phases = [
                    self.progress.start_phase(f"starting {'judge' if isinstance(service, JudgeService) else 'policy'}")
                    for service in services
                ]
                for service in services:
                    await stack.enter_async_context(service)
                await gather_all(map(self._wait_until_ready, services, phases))
            yield policy, judge
            self.console.print("stopping Ray" if cluster.local else "leaving Ray")

    async def _wait_until_ready(self, service: JudgeService | PolicyService, phase: Phase) -> None:
        await service.wait_until_ready(phase.report_replicas)
        self.progress.end_phase(phase)

    def _place_services(self, cluster: Cluster) -> tuple[PolicyServiceConfig, ServiceConfig | RemoteJudge]:
        """Configure both services; every engine gets an equal share of the cluster."""
        config = self.config
        policy, external_judge = config.policy_config, config.external_judge
        has_local_policy = policy.url is None
        engines = config.replicas * (external_judge is None) + config.policy_replicas * has_local_policy
        gpus = compute_gpu_share(cluster.gpus, engines) if engines else 0.0
        # CPUs are divided only on a local cluster: a shared one may have other users.
        cpus = 1.0 if gpus or not cluster.local else cluster.cpus / max(1, engines)
        if has_local_policy:
            policy = _apply_share(policy, cpus, gpus)
        policy_service = PolicyServiceConfig(
            policy,
            config.policy_replicas,
            name=self._name_service("policy"),
            cpus_per_replica=cpus * has_local_policy,
            gpus_per_replica=gpus * has_local_policy,
        )
        if external_judge is not None:
            return policy_service, external_judge
        judge = ServiceConfig(
            config.judge_config,
            config.replicas,
            name=self._name_service("judge"),
            cpus_per_replica=cpus,
            gpus_per_replica=gpus,
        )
        return policy_service, judge.place_on(cluster)

    def _name_service(self, part: str) -> str:
        """Build a service name from the run folder; other runs may use the same cluster."""
        folder = f"{platform.node()}:{self.folder.path.resolve()}"
        return f"flex-judge-{part}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class DataRun:
    """Run over prompts with its folder and its progress display."""

    config: DataFlags
    source: Source
    file: str | None
    """Name of the prompts on the command line; None for the embedded task."""
    folder: RunFolder
    plan: Callable[[Models], WorkPlan]
    """Builds the processing of each prompt from the models."""
    comparisons: int
    """Number of comparisons per prompt that are judged at the same time."""
    console: Console
    progress: Progress

    def complete(self) -> CompletedRun:
        """Process the pending shards and return the results of all shards.

        Raises:
            JudgeError: the run ended early. Finished shards are kept, and running it again resumes.
        """
        shard_folder = ShardFolder(self.folder.path.resolve() / "shards")
        shard_rows = choose_shard_rows(len(self.source))
        shards = count_shards(len(self.source), shard_rows)
        if pending := list_pending_shards(shard_folder, shards, self.config.retry_rejected):
            run_async(self._process_shards(shard_folder, shard_rows, pending))
        else:
            self.console.print(f"{self.folder.path} is complete: nothing is sampled or judged again", soft_wrap=True)
        results = CompletedRun(shard_folder, shard_folder.read_reports())
        results.join_table(FAILED_TABLE, self.folder.path / f"{FAILED_TABLE}.jsonl")
        return results

    async def _process_shards(self, shard_folder: ShardFolder, shard_rows: int, pending: list[int]) -> None:
        if not self.config.needs_ray:
            judge = self.config.external_judge
            assert judge is not None
            with contextlib.closing(load_policy(self.config.policy_config)) as policy:
                await self._run_job(shard_folder, shard_rows, pending, OpenModels(policy, judge.make_ask()), judge)
            return
        services = RunServices(self.config, self.folder, self.console, self.progress)
        async with services.start() as (policy_service, judge_service):
            models = ServedModels(policy_service, judge_service)
            await self._run_job(shard_folder, shard_rows, pending, models, judge_service)

    async def _run_job(
        self,
        shard_folder: ShardFolder,
        shard_rows: int,
        pending: list[int],
        models: Models,
        judge: ServiceConfig | RemoteJudge,
    ) -> None:
        prompts_at_once = PROMPTS_PER_SLOT * max(1, judge.max_requests // self.comparisons)
        workers = -(-prompts_at_once // WORKER_ROWS)  # rounded up
        job = Job(
            self.source,
            self.plan(CountedModels(models, shard_folder.folder)),
            shard_folder.folder,
            self.config.build_columns(self.file),
            shard_rows=shard_rows,
            rows_at_once=-(-prompts_at_once // workers),
            workers=workers,
            # Twice the rows in progress: the last slow rows of a shard must not leave replicas idle.
            shards_at_once=max(2, -(-2 * prompts_at_once // (workers * shard_rows))),
            retry_rejected=self.config.retry_rejected,
        )
        remove_counts(shard_folder.folder)
        try:
            with self.folder.time_phase("work"):
                await self._follow_job(job, _count_rows(job, pending))
        finally:
            remove_counts(shard_folder.folder)

    async def _follow_job(self, job: Job, pending_rows: int) -> None:
        """Run a job and show its samples, judgments and prompts."""
        total = len(self.source)
        with (
            self.progress.show_phase("sampling", pending_rows * self.config.num_answers) as sampling,
            self.progress.show_phase("judging", pending_rows * self.comparisons) as judging,
            self.progress.show_phase("prompts", total, total - pending_rows) as prompts,
        ):

            def show_counts() -> None:
                counts = read_counts(job.folder)
                left = max(0, pending_rows - counts.rows)
                samples = counts.row_samples + left * self.config.num_answers
                judgments = counts.row_judgments + left * self.comparisons
                sampling.set_counts(counts.sampled, running=counts.sampling, total=max(samples, counts.sampled))
                judging.set_counts(counts.judged, counts.unscored, counts.judging, total=max(judgments, counts.judged))
                done = min(total, total - pending_rows + counts.rows)
                prompts.set_counts(done, counts.failed_rows, counts.active_rows)

            async def poll_counts() -> None:
                while True:
                    await asyncio.sleep(POLL_S)
                    await asyncio.to_thread(show_counts)

            polling = asyncio.create_task(poll_counts())
            finished_rows = total - pending_rows
            try:
                async for report in stream_reports(job) if self.config.needs_ray else stream_local_reports(job):
                    finished_rows += report.rows
            finally:
                polling.cancel()
                await asyncio.gather(polling, return_exceptions=True)
            show_counts()
            prompts.set_counts(finished_rows)


def _apply_share(policy: PolicyConfig, cpus: float, gpus: float) -> PolicyConfig:
    """Give the policy its share of a machine, as `ServiceConfig.place_on` does for judges."""
    if gpus:
        # Replicas that share a GPU share its memory in the same proportion.
        share = round(policy.gpu_memory_utilization * gpus, 3)
        return replace(policy, own_process=True, gpu_memory_utilization=share)
    return replace(policy, threads=policy.threads or max(1, int(cpus)))


def _count_rows(job: Job, shards: list[int]) -> int:
    return sum(stop - start for start, stop in map(job.get_row_range, shards))
