"""Execution of a run over prompts: cluster, services, shards, progress, and joined results."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.pipeline.job import Job, WorkPlan, choose_shard_rows, count_shards
from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.pipeline.models import Models, OpenModels, ServedModels
from flex_judge.alignment.pipeline.runner import list_pending_shards, stream_local_reports, stream_reports
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport, sum_reports
from flex_judge.alignment.pipeline.tally import CountedModels, read_counts, remove_counts
from flex_judge.alignment.pipeline.worker import FAILED_TABLE
from flex_judge.alignment.policies.config import load_policy
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.data_runs.services import RunServices
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import run_async
from flex_judge.reward.serving.service import ServiceConfig

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
        identity: further settings that determine the results, in addition to the settings of all runs.
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
            try:
                run_async(self._process_shards(shard_folder, shard_rows, pending))
            except KeyboardInterrupt:
                saved = sum_reports(shard_folder.read_reports().values()).rows
                total = format_count(len(self.source), "prompt")
                text = f"{saved:,} of {total} saved; the same command starts the others again"
                self.console.print(text, soft_wrap=True)
                raise
            finally:
                remove_counts(shard_folder.folder)  # only now, as workers write them until Ray has stopped
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
        with self.folder.time_phase("work"):
            await self._follow_job(job, _count_rows(job, pending))

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


def _count_rows(job: Job, shards: list[int]) -> int:
    return sum(stop - start for start, stop in map(job.get_row_range, shards))
