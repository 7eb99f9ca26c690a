"""Run a job on Ray Data, or in this process: shards in parallel and in any order, each completed exactly once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from typing import Any

from flex_judge.alignment.pipeline.job import Job
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport
from flex_judge.alignment.pipeline.worker import ShardWorker
from flex_judge.judges.concurrency import run_concurrently
from flex_judge.judges.errors import ClusterError, JudgeError

END_EXECUTION_S = 15.0
"""How long a stopped job waits for the threads of Ray Data."""


def list_pending_shards(shard_folder: ShardFolder, shards: int, retry_rejected: bool = False) -> list[int]:
    """List the shards still to be processed: those without a report and those with rows to retry.

    Args:
        shard_folder: Folder of the results.
        shards: Total number of shards.
        retry_rejected: Whether to retry rejected rows, too.
    """
    done = {
        shard
        for shard, report in shard_folder.read_reports().items()
        if report.is_final and not (retry_rejected and report.failed)
    }
    return [shard for shard in range(shards) if shard not in done]


def run_job(job: Job) -> Iterator[ShardReport]:
    """Process all pending shards and yield a report (without reasons and times) as each one is done.

    Needs a connection to a Ray cluster. Workers reserve no CPUs, because they only wait for the services.

    Raises:
        JudgeError: The error that ended a worker, such as an unreachable model or a full disk. Finished shards are
            kept.
    """
    shards = list_pending_shards(ShardFolder(job.folder), job.shard_count, job.retry_rejected)
    if not shards:
        return
    import ray
    from ray.exceptions import RayError

    _silence_ray_data()
    # One block per shard makes each Ray Data task one shard, which Ray may retry on another node.
    dataset = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    reports = dataset.map_batches(
        ShardWorker,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="numpy",
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(
            size=job.workers,
            # One more than run at a time, so that the next shard is already queued at the worker.
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
    """Run a job in a thread and yield its reports, see `run_job`.

    The caller can be cancelled at any time, however long a shard takes.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[ShardReport | BaseException | None] = asyncio.Queue()

    def put_report(report: ShardReport | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop may be closed by then
            loop.call_soon_threadsafe(queue.put_nowait, report)

    def follow_job() -> None:
        try:
            for report in run_job(job):
                put_report(report)
        except BaseException as e:  # noqa: BLE001 - passed on to the event loop, whatever it is
            put_report(e)
        else:
            put_report(None)

    # A daemon thread: the call into Ray cannot be interrupted, and must not keep the process alive.
    thread = threading.Thread(target=follow_job, name="ray-data", daemon=True)
    thread.start()
    try:
        while (report := await queue.get()) is not None:
            if isinstance(report, BaseException):
                raise report
            yield report
    finally:
        # A thread of Ray Data that is still at work when Ray shuts down ends the whole process, with exit status 1.
        await asyncio.shield(asyncio.to_thread(_end_execution, thread))


def _end_execution(thread: threading.Thread) -> None:
    """End the executors of Ray Data, and with them the thread that waits for their results."""
    end = time.monotonic() + END_EXECUTION_S
    while thread.is_alive() and time.monotonic() < end:
        for executor in threading.enumerate():
            # By its name: each executor is a thread, and the class is in an internal module of Ray.
            if type(executor).__name__ == "StreamingExecutor":
                executor.shutdown(force=True)  # type: ignore[attr-defined]
        thread.join(0.1)


async def stream_local_reports(job: Job) -> AsyncGenerator[ShardReport, None]:
    """Process all pending shards in this process, without Ray, and yield a report as each one is done.

    Raises:
        JudgeError: An error that concerns every row, such as a key that is rejected. Finished shards are kept.
    """
    worker = ShardWorker(job)
    pending = list_pending_shards(ShardFolder(job.folder), job.shard_count, job.retry_rejected)

    async def process_shard(shard: int) -> ShardReport | JudgeError:
        try:
            return await worker.process_shard(shard)
        except JudgeError as e:
            return e  # returned, because `run_concurrently` would finish all other shards before it raised some types

    async with aclosing(run_concurrently(pending, process_shard, job.shards_at_once)) as results:
        async for _, result in results:
            if isinstance(result, JudgeError):
                raise result
            yield result


def _silence_ray_data() -> None:
    """Switch off the progress bars and logs of Ray Data; this project prints its own."""
    import logging

    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # without it, the worker's exception is lost
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.data._internal"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _unwrap_error(error: BaseException) -> JudgeError:
    """Return the worker's own error from inside the errors that Ray wraps it in."""
    inner: Any = error
    while inner is not None:
        if isinstance(inner, JudgeError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # The last line of a remote traceback holds the exception.
    return ClusterError(f"a worker failed: {(lines or [type(error).__name__])[-1][:300]}")
