"""An engine whose processes die or hang: everyone is told soon, and nothing of it stays behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import processes as own_processes
import psutil
import pytest
from processes import WITHIN_S, alive, all_are_told, at_work, ended, running, until_lost
from tiny_models import tiny_llama

from judges.engines import Sampling
from judges.errors import EngineLostError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama")


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


def test_an_engine_that_hangs_is_noticed_and_ended(model: Path) -> None:
    async def scenario() -> None:
        async with running(model, stall_s=2.0) as (engine, processes):
            tasks = await at_work(engine)
            processes[-1].suspend()
            assert "has not answered for 2 s" in await until_lost(engine)
            assert await all_are_told(tasks)
            assert ended(*processes)

    asyncio.run(scenario())


def test_when_the_owner_of_an_engine_is_killed_its_processes_go_too(model: Path) -> None:
    command = [sys.executable, str(own_processes.__file__), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(processes) >= 2
        assert all(map(alive, processes))
        owner.kill()
    assert ended(*processes, within_s=WITHIN_S)
