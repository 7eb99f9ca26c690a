"""Commands and engines in processes of their own, and helpers that wait for their end.

`python processes.py MODEL` runs an engine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from flex_judge.judges import EngineConfig
from flex_judge.judges.engines import Engine, Sampling, load_engine
from flex_judge.judges.errors import EngineLostError

PROGRAM = (sys.executable, "-m", "flex_judge.experiments.cli")
"""Command line of `flex-judge`, without arguments."""
PATIENCE_S = 20.0
WITHIN_S = 10.0
LONG = Sampling(4000)


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `flex-judge` with these arguments to its end, with further variables of the environment."""
    command = [*PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=600)


def is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for_end(*processes: psutil.Process, within_s: float = PATIENCE_S) -> bool:
    """Wait for processes to end; return whether all of them do in time."""
    end = time.monotonic() + within_s
    while any(map(is_alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@asynccontextmanager
async def run_engine(model: Path, **config: object) -> AsyncIterator[tuple[Engine, list[psutil.Process]]]:
    """Run vllm in separate processes; yield the engine and its processes, the one that steps it first."""
    existing = set(psutil.Process().children())
    settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8, "threads": 1, **config}
    engine = load_engine(EngineConfig(str(model), "vllm", own_process=True, **settings))  # type: ignore[arg-type]
    try:
        core = next(p for p in psutil.Process().children() if p not in existing and p.children())
        yield engine, [core, *core.children(recursive=True)]
    finally:
        engine.close()


async def start_requests(engine: Engine) -> list[asyncio.Task[object]]:
    """Start requests that take some seconds; return the tasks that are still running after half a second."""
    tasks = []
    for n in range(6):
        prompt = engine.tokenizer.encode(f"The judge reads question {n}")
        tasks.append(asyncio.create_task(engine.generate(prompt, LONG)))
    await asyncio.sleep(0.5)
    return [task for task in tasks if not task.done()]  # a tiny model may have finished some already


async def wait_until_lost(engine: Engine) -> str:
    """Poll the health check until the engine is lost and return its message."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                await engine.check_health()
            except EngineLostError as e:
                return str(e)
            await asyncio.sleep(0.05)


async def check_all_lost(tasks: list[asyncio.Task[object]]) -> bool:
    """Return whether at least one request failed and all failures are EngineLostError."""
    async with asyncio.timeout(WITHIN_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    return bool(failed) and all(isinstance(error, EngineLostError) for error in failed)


async def _run_for_a_minute(model: Path) -> None:
    async with run_engine(model) as (engine, processes):
        await start_requests(engine)
        print(*(p.pid for p in processes), flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_run_for_a_minute(Path(sys.argv[1])))
