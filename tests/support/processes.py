"""Engines in processes of their own, and waiting for these to end. `python processes.py MODEL` owns one for a while."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Engine, Sampling, load_engine
from flex_judge.judges.errors import EngineLostError

PATIENCE_S = 20.0
WITHIN_S = 10.0
LONG = Sampling(4000)


def alive(process: psutil.Process) -> bool:
    """Whether it runs. One that has ended and that its parent has not asked about yet does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def ended(*processes: psutil.Process, within_s: float = PATIENCE_S) -> bool:
    """Whether all of them end within a time."""
    end = time.monotonic() + within_s
    while any(map(alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@asynccontextmanager
async def running(model: Path, **config: object) -> AsyncIterator[tuple[Engine, list[psutil.Process]]]:
    """An engine of vllm, and its processes: first the one that steps it, then its workers."""
    before = set(psutil.Process().children())
    settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8, "threads": 1, **config}
    engine = load_engine(EngineConfig(str(model), "vllm", own_process=True, **settings))  # type: ignore[arg-type]
    try:
        core = next(p for p in psutil.Process().children() if p not in before and p.children())
        yield engine, [core, *core.children(recursive=True)]
    finally:
        engine.close()


async def at_work(engine: Engine) -> list[asyncio.Task[object]]:
    """Requests that are under way and take some seconds yet."""
    tasks = []
    for n in range(6):
        prompt = engine.tokenizer.encode(f"The judge reads question {n}")
        tasks.append(asyncio.create_task(engine.generate(prompt, LONG)))
    await asyncio.sleep(0.5)
    return [task for task in tasks if not task.done()]  # a tiny model may have come to an end already


async def until_lost(engine: Engine) -> str:
    """What the health check says as soon as it says that the engine is lost."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await engine.check_health()
            except EngineLostError as e:
                return str(e)
            await asyncio.sleep(0.05)


async def all_are_told(tasks: list[asyncio.Task[object]]) -> bool:
    """Whether each of these requests that had not come to its end ends with the news that its engine is lost."""
    async with asyncio.timeout(WITHIN_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    return bool(failed) and all(isinstance(error, EngineLostError) for error in failed)


async def _own(model: Path) -> None:
    async with running(model) as (engine, processes):
        await at_work(engine)
        print(*(p.pid for p in processes), flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_own(Path(sys.argv[1])))
