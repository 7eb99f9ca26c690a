"""Concurrent requests to a recording engine: sharing, cancellation, failures and a locked file."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from recordings import SAMPLING, encode, recording

from flex_judge.judges.engines import Engine, Generation, Sampling
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import EngineLostError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def generate(engine: Engine, prompt: str) -> Generation:
    """Run one request in its own event loop."""
    return asyncio.run(engine.generate(encode(prompt), SAMPLING))


class Gate:
    """Script that counts its calls and replies once `open` is set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls = 0
        self.cancelled = 0

    async def __call__(self, prompt: str, sampling: Sampling) -> str:
        self.calls += 1
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return f"reply {self.calls}"


async def settle() -> None:
    """Give all tasks and the ledger's thread time to proceed as far as they can."""
    for _ in range(20):
        await asyncio.sleep(0.005)


async def start(*requests: Coroutine[Any, Any, Generation]) -> list[asyncio.Task[Generation]]:
    """Start the requests as tasks and let them proceed."""
    tasks = [asyncio.create_task(request) for request in requests]
    await settle()
    return tasks


# Equal concurrent requests


async def test_equal_concurrent_requests_are_computed_once(path: Path) -> None:
    gate = Gate()
    engine, _ = recording(path, gate)
    tasks = await start(*(engine.generate(encode("Ana"), SAMPLING) for _ in range(5)))
    tasks += await start(engine.generate(encode("Ben"), SAMPLING))
    gate.open.set()
    texts = [generation.text for generation in await asyncio.gather(*tasks)]
    assert len(set(texts[:5])) == 1
    assert gate.calls == 2
    assert (engine.hits, engine.misses) == (0, 2)
    engine.close()


def test_event_loops_in_many_threads_get_the_same_generation(path: Path) -> None:
    counter = iter(range(100))
    engine, _ = recording(path, lambda *_: f"sample {next(counter)}")
    with ThreadPoolExecutor(8) as pool:
        assert len({g.text for g in pool.map(lambda _: generate(engine, "Ana"), range(40))}) == 1
    assert engine.hits + engine.misses == 40
    engine.close()


@pytest.mark.parametrize("leaving", [[0], [1], [0, 1]])
async def test_cancelling_one_caller_keeps_the_result_for_the_others(path: Path, leaving: list[int]) -> None:
    gate = Gate()
    engine, _ = recording(path, gate)
    tasks = await start(*(engine.generate(encode("Ana"), SAMPLING) for _ in range(3)))
    for place in leaving:
        tasks[place].cancel()
    await settle()
    gate.open.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for place, result in enumerate(results):
        assert isinstance(result, asyncio.CancelledError if place in leaving else Generation)
    assert (gate.calls, gate.cancelled) == (1, 0)
    engine.close()


async def test_abandoned_computation_is_cancelled_and_can_be_repeated(path: Path) -> None:
    gate = Gate()
    engine, _ = recording(path, gate)
    tasks = await start(*(engine.generate(encode("Ana"), SAMPLING) for _ in range(2)))
    for task in tasks:
        task.cancel()
    again = asyncio.create_task(
        engine.generate(encode("Ana"), SAMPLING)
    )  # while the first computation is being cancelled
    await settle()
    assert (gate.calls, gate.cancelled) == (2, 1)
    assert len(engine.ledger) == 0
    gate.open.set()
    assert (await again).text == "reply 2"
    engine.close()


async def test_timeout_cancels_the_computation(path: Path) -> None:
    gate = Gate()
    engine, _ = recording(path, gate)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await engine.generate(encode("Ana"), SAMPLING)
    await settle()
    assert gate.cancelled == 1
    engine.close()


async def test_failure_reaches_all_callers_and_is_not_recorded(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    async def fail_once(prompt: str, sampling: Sampling) -> str:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        if calls == 1:
            raise EngineLostError("died")
        return "fine"

    engine, _ = recording(path, fail_once)
    tasks = await start(*(engine.generate(encode("Ana"), SAMPLING) for _ in range(3)))
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, EngineLostError)
    assert len(engine.ledger) == 0
    assert (await engine.generate(encode("Ana"), SAMPLING)).text == "fine"
    assert calls == 2
    engine.close()
    gc.collect()
    assert caplog.text == ""  # asyncio would log exceptions that were never retrieved


async def test_error_after_cancellation_is_not_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def fail_when_cancelled(prompt: str, sampling: Sampling) -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise EngineLostError("died of it") from None
        return ""

    engine, _ = recording(path, fail_when_cancelled)
    (task,) = await start(engine.generate(encode("Ana"), SAMPLING))
    task.cancel()
    await settle()
    assert task.cancelled()
    engine.close()
    del task
    gc.collect()
    assert caplog.text == ""


# Waiting for the ledger


async def test_finished_generation_is_recorded_after_cancellation(path: Path) -> None:
    computed, release = threading.Event(), threading.Event()

    class SlowLedger(Ledger):
        def put(self, key: bytes, generation: Generation) -> Generation:
            computed.set()
            release.wait(10)
            return super().put(key, generation)

    gate = Gate()
    engine = RecordingEngine(ScriptedEngine(gate), SlowLedger(path))
    tasks = await start(*(engine.generate(encode(name), SAMPLING) for name in ("Ana", "Ben", "Cyd")))
    gate.open.set()
    await settle()
    assert computed.is_set()  # the first generation is being written, and the others wait
    for task in tasks:
        task.cancel()
    await settle()
    release.set()
    for name in ("Ana", "Ben", "Cyd"):
        assert (await engine.generate(encode(name), SAMPLING)).text.startswith("reply")
    assert (engine.hits, engine.misses) == (3, 3)
    engine.close()


async def test_event_loop_is_not_blocked_by_a_locked_file(path: Path) -> None:
    engine, _ = recording(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    (task,) = await start(engine.generate(encode("Ana"), SAMPLING))
    assert not task.done()
    other.execute("ROLLBACK")
    assert (await task).text == "Hello, Ana!"
    other.close()
    engine.close()


async def test_close_writes_pending_generations(path: Path) -> None:
    engine, _ = recording(path)
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    await start(engine.generate(encode("Ana"), SAMPLING))
    end = threading.Timer(0.2, other.rollback)
    end.start()
    engine.close()
    end.join()
    other.close()
    with Ledger(path) as ledger:
        assert len(ledger) == 1
