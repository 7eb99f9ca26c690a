"""An engine whose processes die or hang: everyone is told soon, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from processes import alive, ended
from tiny_models import tiny_llama

from judges import EngineConfig
from judges.engines import Engine, Sampling, load_engine
from judges.errors import EngineLostError

LONG = Sampling(4000)
WITHIN_S = 10.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@asynccontextmanager
async def running(model: Path, **config: object) -> AsyncIterator[tuple[Engine, list[psutil.Process]]]:
    """An engine in processes of its own, and these: the one that steps it first, then its workers."""
    before = set(psutil.Process().children(recursive=True))
    settings = {"dtype": "float32", "max_model_len": 4096, "max_batch": 8, "threads": 1, **config}
    engine = load_engine(EngineConfig(str(model), "vllm", own_process=True, **settings))  # type: ignore[arg-type]
    try:
        core = next(p for p in psutil.Process().children() if p not in before and p.children())
        yield engine, [core, *core.children(recursive=True)]
    finally:
        engine.close()


async def at_work(engine: Engine, requests: int = 6) -> list[asyncio.Task[object]]:
    """Requests that are computed, and take some seconds yet."""
    tasks = []
    for n in range(requests):
        prompt = engine.tokenizer.encode(f"The judge reads question {n}")
        tasks.append(asyncio.create_task(engine.generate(prompt, LONG)))
    await asyncio.sleep(0.5)
    return [task for task in tasks if not task.done()]  # a tiny model may have come to an end already


async def until_lost(engine: Engine, within_s: float = WITHIN_S) -> str:
    """What the health check says as soon as it says that the engine is lost."""
    async with asyncio.timeout(within_s):
        while True:
            start = time.monotonic()
            try:
                await engine.check_health()
            except EngineLostError as e:
                return str(e)
            assert time.monotonic() - start < 1
            await asyncio.sleep(0.05)


async def all_are_told(tasks: list[asyncio.Task[object]]) -> bool:
    async with asyncio.timeout(WITHIN_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    return bool(results) and all(isinstance(r, EngineLostError) for r in results)


@pytest.mark.slow
def test_when_the_process_of_an_engine_is_killed_everyone_is_told_and_nothing_is_left(model: Path) -> None:
    async def scenario() -> None:
        async with running(model) as (engine, processes):
            await engine.check_health()
            tasks = await at_work(engine)
            processes[0].kill()
            assert "died" in await until_lost(engine)
            assert await all_are_told(tasks)
            with pytest.raises(EngineLostError):
                await engine.generate([1, 2, 3], Sampling(4))
            engine.close()
            assert ended(*processes, within_s=1)

    asyncio.run(scenario())


@pytest.mark.slow
def test_an_engine_that_hangs_is_noticed_and_ended(model: Path) -> None:
    async def scenario() -> None:
        async with running(model, stall_s=2.0) as (engine, processes):
            tasks = await at_work(engine)
            processes[-1].suspend()
            assert "has not answered for 2 s" in await until_lost(engine)
            assert await all_are_told(tasks)
            assert ended(*processes)

    asyncio.run(scenario())


@pytest.mark.slow
def test_when_the_owner_of_an_engine_is_killed_its_processes_go_too(model: Path) -> None:
    with subprocess.Popen([sys.executable, __file__, str(model)], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pids = owner.stdout.readline().split()
        processes = [psutil.Process(int(pid)) for pid in pids]
        assert len(processes) >= 2
        assert all(map(alive, processes))
        owner.send_signal(signal.SIGKILL)
    assert ended(*processes, within_s=WITHIN_S)


async def _own(model: Path) -> None:
    async with running(model) as (engine, processes):
        await at_work(engine)
        print(*(p.pid for p in processes), flush=True)
        await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(_own(Path(sys.argv[1])))
