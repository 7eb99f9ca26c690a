"""A job from its first shard to its last, on Ray Data: side by side, in any order, each shard exactly once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from typing import Any

from flex_judge.alignment.pipeline.job import Job
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport
from flex_judge.alignment.pipeline.worker import ShardWorker
from flex_judge.judges.errors import ClusterError, JudgeError


def list_pending_shards(shard_folder: ShardFolder, shards: int, retry_rejected: bool = False) -> list[int]:
    """Of so many shards, those that are still to be worked on: without a report, or with rows that another try may get
    done; where all that is lost is tried again, also with rows that were refused."""
    there = shard_folder.read_reports()
    done = {shard for shard, report in there.items() if report.is_final and not (retry_rejected and report.failed)}
    return [shard for shard in range(shards) if shard not in done]


def run_job(job: Job) -> Iterator[ShardReport]:
    """Work on all pending shards; yields reports as shards are done (without reasons and times).

    Needs a connection to a Ray cluster. Workers only wait for others, so they take no share of its processors.

    Raises:
        JudgeError: what ended a worker: a model that cannot be reached, a disk that is full. What was done is kept.
    """
    shards = list_pending_shards(ShardFolder(job.folder), job.shard_count, job.retry_rejected)
    if not shards:
        return
    import ray
    from ray.exceptions import RayError

    _silence_ray_data()
    # A block for each shard: a task of Ray Data's is then a shard, which it may try again elsewhere.
    dataset = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    reports = dataset.map_batches(
        ShardWorker,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(
            size=job.workers,
            max_tasks_in_flight_per_actor=job.shards_at_once + 1,
            max_concurrent_calls_per_actor=job.shards_at_once,
        ),
    )
    try:
        for row in reports.iter_rows():
            yield ShardReport(int(row["shard"]), int(row["rows"]), int(row["done"]), again=int(row["again"]))
    except RayError as e:
        raise _unwrap_error(e) from e


async def stream_reports(job: Job) -> AsyncGenerator[ShardReport, None]:
    """As `run`, within an event loop: who waits for a report can be cancelled, however long a shard takes."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[ShardReport | BaseException | None] = asyncio.Queue()

    def put_report(what: ShardReport | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop may be gone by then
            loop.call_soon_threadsafe(arrived.put_nowait, what)

    def follow_job() -> None:
        try:
            for report in run_job(job):
                put_report(report)
        except BaseException as e:  # noqa: BLE001 - handed over to whoever waits, whatever it is
            put_report(e)
        else:
            put_report(None)

    # A daemon: it ends with the cluster, and nobody should wait for it.
    threading.Thread(target=follow_job, name="ray-data", daemon=True).start()
    while (report := await arrived.get()) is not None:
        if isinstance(report, BaseException):
            raise report
        yield report


def _silence_ray_data() -> None:
    """Ray Data shows progress bars and logs of its own; ours tell more."""
    import logging

    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # else what a worker raised is lost on its way
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _unwrap_error(error: BaseException) -> JudgeError:
    """What a worker raised, out of the errors that Ray wraps it in."""
    seen: Any = error
    while seen is not None:
        if isinstance(seen, JudgeError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ClusterError(f"a worker failed: {(lines or [type(error).__name__])[-1][:300]}")
