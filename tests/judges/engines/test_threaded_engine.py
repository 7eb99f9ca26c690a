"""Engines that compute in a thread: results reach their callers, and no caller waits for a dead engine."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Iterator

import pytest

from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.threaded import EngineRequest, ThreadedEngine
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.media.types import Modality

SAMPLING = Sampling(8)
STEP_S = 0.001
TIMEOUT_S = 20.0  # far more than any test takes; a test that runs into it has found a forgotten caller


class Doubler(ThreadedEngine):
    """Engine that doubles the numbers of a prompt, last request first; the number 13 crashes it."""

    name = "doubler"

    def __init__(self, stall_s: float = math.inf, broken: str = "") -> None:
        self.taken: list[EngineRequest] = []
        self.computed: list[list[int]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.step_s = 0.0
        self.freed = False
        self.broken = broken
        self._start_engine(self._load, stall_s)

    def _load(self) -> None:
        self.threads.add(threading.get_ident())
        if self.broken:
            raise OSError(self.broken)

    def _run_step(self, new: list[EngineRequest]) -> bool:
        self.threads.add(threading.get_ident())
        self.taken += new
        new.clear()
        self.gate.wait(TIMEOUT_S)
        time.sleep(self.step_s)
        self.taken = [r for r in self.taken if not r.is_cancelled]
        if self.taken:
            request = self.taken[-1]
            if 13 in request.prompt:
                raise ArithmeticError("13 cannot be doubled")
            self.computed.append(request.prompt)
            self.taken.remove(request)
            request.resolve(Generation("", tuple(2 * n for n in request.prompt), "eos"))
        return bool(self.taken)

    def _list_pending(self) -> list[EngineRequest]:
        return self.taken

    def _free_model(self) -> None:
        self.freed = True


@pytest.fixture
def engine() -> Iterator[Doubler]:
    engine = Doubler()
    yield engine
    engine.gate.set()
    engine.close()


async def double(engine: ThreadedEngine, *numbers: int) -> tuple[int, ...]:
    async with asyncio.timeout(TIMEOUT_S):
        return (await engine.generate(numbers, SAMPLING)).token_ids


async def wait_until_taken(engine: Doubler, count: int) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while len(engine.taken) < count:
            await asyncio.sleep(STEP_S)


async def wait_until_unhealthy(engine: Doubler) -> EngineLostError:
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                await engine.check_health()
            except EngineLostError as e:
                return e
            await asyncio.sleep(STEP_S)


async def gather_outcomes(*tasks: asyncio.Task[tuple[int, ...]]) -> list[object]:
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_one_thread_loads_the_model_and_computes(engine: Doubler) -> None:
    assert await double(engine, 1) == (2,)
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_constructor_raises_the_load_error() -> None:
    with pytest.raises(OSError, match="no such file"):
        Doubler(broken="no such file")


async def test_every_caller_gets_its_own_result(engine: Doubler) -> None:
    results = await asyncio.gather(*(double(engine, n, n + 1) for n in range(100, 300)))
    assert results == [(2 * n, 2 * n + 2) for n in range(100, 300)]


async def test_media_are_passed_with_their_prompt(engine: Doubler) -> None:
    picture = PreparedMedia(Modality.IMAGE, None, "digest")
    engine.gate.clear()
    task = asyncio.ensure_future(engine.generate([1], SAMPLING, [picture]))
    await wait_until_taken(engine, 1)
    assert engine.taken[0].media == (picture,)
    engine.gate.set()
    assert (await task).token_ids == (2,)


def test_engine_outlives_event_loops(engine: Doubler) -> None:
    assert asyncio.run(double(engine, 1)) == (2,)
    assert asyncio.run(double(engine, 2)) == (4,)


def test_engine_serves_two_event_loops_concurrently(engine: Doubler) -> None:
    results: dict[int, list[tuple[int, ...]]] = {}

    def run_loop(start: int) -> None:
        async def double_all() -> list[tuple[int, ...]]:
            return list(await asyncio.gather(*(double(engine, n) for n in range(start, start + 50))))

        results[start] = asyncio.run(double_all())

    threads = [threading.Thread(target=run_loop, args=(start,)) for start in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert results == {start: [(2 * n,) for n in range(start, start + 50)] for start in (100, 200)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_crash_fails_every_caller_with_the_reason(engine: Doubler) -> None:
    engine.gate.clear()
    tasks = [asyncio.ensure_future(double(engine, n)) for n in (1, 2, 13)]
    await wait_until_taken(engine, 3)
    tasks.append(asyncio.ensure_future(double(engine, 4)))  # still in the inbox when the engine dies
    await asyncio.sleep(STEP_S)
    engine.gate.set()
    for outcome in await gather_outcomes(*tasks):
        assert isinstance(outcome, EngineLostError)
        assert "13 cannot be doubled" in str(outcome)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_crashed_engine_is_unhealthy_and_rejects_requests(engine: Doubler) -> None:
    await engine.check_health()
    with pytest.raises(EngineLostError):
        await double(engine, 13)
    engine.close()
    with pytest.raises(EngineLostError, match="13 cannot be doubled"):
        await engine.check_health()
    with pytest.raises(EngineLostError, match="13 cannot be doubled"):
        await double(engine, 1)


async def test_close_resolves_all_pending_requests(engine: Doubler) -> None:
    engine.step_s = 0.05
    tasks = [asyncio.ensure_future(double(engine, n)) for n in range(4)]
    await wait_until_taken(engine, 4)
    engine.close()
    results = await gather_outcomes(*tasks)
    lost = [r for r in results if isinstance(r, EngineLostError)]
    assert lost
    assert all("closed" in str(r) for r in lost)
    assert all(isinstance(r, tuple | EngineLostError) for r in results)


async def test_close_is_idempotent(engine: Doubler) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineLostError, match="closed"):
        await engine.check_health()


async def test_cancelled_request_is_not_computed(engine: Doubler) -> None:
    engine.gate.clear()
    tasks = {n: asyncio.ensure_future(double(engine, n)) for n in (1, 2, 3)}
    await wait_until_taken(engine, 3)
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    engine.gate.set()
    assert await gather_outcomes(tasks[1], tasks[3]) == [(2,), (6,)]
    assert [2] not in engine.computed


async def test_request_to_a_closed_engine_raises(engine: Doubler) -> None:
    engine.close()
    with pytest.raises(EngineLostError, match="closed"):
        async with asyncio.timeout(0.2):
            await engine.generate([1], SAMPLING)


async def test_trickle_of_requests_does_not_delay_the_first_batch(engine: Doubler) -> None:
    first = asyncio.ensure_future(double(engine, 1))
    later = []
    end = time.monotonic() + 0.4
    while time.monotonic() < end and not first.done():
        later.append(asyncio.ensure_future(double(engine, 2)))
        await asyncio.sleep(0.004)
    started_in_time = first.done() or bool(engine.computed)
    await asyncio.gather(first, *later)
    assert started_in_time


@pytest.fixture
def impatient() -> Iterator[Doubler]:
    """Create an engine that counts as hung after half a second in a step."""
    engine = Doubler(stall_s=0.5)
    yield engine
    engine.gate.set()
    engine.close()


async def test_hung_step_is_detected_and_fails_every_caller(impatient: Doubler) -> None:
    impatient.gate.clear()
    tasks = [asyncio.ensure_future(double(impatient, n)) for n in (1, 2)]
    await wait_until_taken(impatient, 2)
    tasks.append(asyncio.ensure_future(double(impatient, 3)))  # still in the inbox
    assert "a step has taken more than 0.5 s" in str(await wait_until_unhealthy(impatient))
    for outcome in [
        *await gather_outcomes(*tasks),
        *await gather_outcomes(asyncio.ensure_future(double(impatient, 4))),
    ]:
        assert isinstance(outcome, EngineLostError)
        assert "a step has taken more than 0.5 s" in str(outcome)


async def test_hung_engine_stays_lost_after_its_step_returns(impatient: Doubler) -> None:
    impatient.gate.clear()
    task = asyncio.ensure_future(double(impatient, 1))
    await wait_until_taken(impatient, 1)
    await wait_until_unhealthy(impatient)
    impatient.gate.set()
    assert isinstance((await gather_outcomes(task))[0], EngineLostError)
    impatient.close()
    with pytest.raises(EngineLostError, match="more than"):
        await impatient.check_health()


async def test_hung_engine_is_closed_without_waiting(impatient: Doubler) -> None:
    impatient.gate.clear()
    task = asyncio.ensure_future(double(impatient, 1))
    await wait_until_taken(impatient, 1)
    await wait_until_unhealthy(impatient)
    start = time.monotonic()
    impatient.close()
    assert time.monotonic() - start < TIMEOUT_S / 2
    assert isinstance((await gather_outcomes(task))[0], EngineLostError)
    assert not impatient.freed  # its step still uses the model
    impatient.gate.set()
    async with asyncio.timeout(TIMEOUT_S):
        while not impatient.freed:
            impatient.close()
            await asyncio.sleep(STEP_S)


async def test_short_steps_and_idleness_are_healthy(impatient: Doubler) -> None:
    impatient.step_s = 0.01
    work = asyncio.gather(*(double(impatient, n) for n in range(100, 160)))
    while not work.done():
        await impatient.check_health()
        await asyncio.sleep(0.02)
    await work
    await asyncio.sleep(0.6)
    await impatient.check_health()
    assert await double(impatient, 1) == (2,)
