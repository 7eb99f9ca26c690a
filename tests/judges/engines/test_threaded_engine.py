"""Engines that compute in a thread: results reach their callers, and nobody waits for a dead engine."""

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
PATIENCE_S = 20.0  # far more than anything here takes; a test that waits so long has found a caller forgotten


class Doubler(ThreadedEngine):
    """Answers each prompt with its numbers doubled, the last request first; the number 13 kills it."""

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
        self.gate.wait(PATIENCE_S)
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


async def ask(engine: ThreadedEngine, *numbers: int) -> tuple[int, ...]:
    async with asyncio.timeout(PATIENCE_S):
        return (await engine.generate(numbers, SAMPLING)).token_ids


async def until_taken(engine: Doubler, count: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while len(engine.taken) < count:
            await asyncio.sleep(STEP_S)


async def until_unhealthy(engine: Doubler) -> EngineLostError:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await engine.check_health()
            except EngineLostError as e:
                return e
            await asyncio.sleep(STEP_S)


async def outcomes(*tasks: asyncio.Task[tuple[int, ...]]) -> list[object]:
    return list(await asyncio.gather(*tasks, return_exceptions=True))


async def test_one_thread_loads_the_model_and_computes_with_it(engine: Doubler) -> None:
    assert await ask(engine, 1) == (2,)
    assert len(engine.threads) == 1
    assert threading.get_ident() not in engine.threads


def test_who_makes_an_engine_is_told_why_its_model_cannot_be_loaded() -> None:
    with pytest.raises(OSError, match="no such file"):
        Doubler(broken="no such file")


async def test_every_caller_gets_the_result_of_its_own_prompt(engine: Doubler) -> None:
    results = await asyncio.gather(*(ask(engine, n, n + 1) for n in range(100, 300)))
    assert results == [(2 * n, 2 * n + 2) for n in range(100, 300)]


async def test_media_travel_with_their_prompt(engine: Doubler) -> None:
    picture = PreparedMedia(Modality.IMAGE, None, "digest")
    engine.gate.clear()
    task = asyncio.ensure_future(engine.generate([1], SAMPLING, [picture]))
    await until_taken(engine, 1)
    assert engine.taken[0].media == (picture,)
    engine.gate.set()
    assert (await task).token_ids == (2,)


def test_an_engine_outlives_the_event_loops_of_its_callers(engine: Doubler) -> None:
    assert asyncio.run(ask(engine, 1)) == (2,)
    assert asyncio.run(ask(engine, 2)) == (4,)


def test_an_engine_serves_two_event_loops_at_the_same_time(engine: Doubler) -> None:
    results: dict[int, list[tuple[int, ...]]] = {}

    def caller(start: int) -> None:
        async def all_of_them() -> list[tuple[int, ...]]:
            return list(await asyncio.gather(*(ask(engine, n) for n in range(start, start + 50))))

        results[start] = asyncio.run(all_of_them())

    threads = [threading.Thread(target=caller, args=(start,)) for start in (100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert results == {start: [(2 * n,) for n in range(start, start + 50)] for start in (100, 200)}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_when_the_engine_crashes_every_caller_is_told_why(engine: Doubler) -> None:
    engine.gate.clear()
    tasks = [asyncio.ensure_future(ask(engine, n)) for n in (1, 2, 13)]
    await until_taken(engine, 3)
    tasks.append(asyncio.ensure_future(ask(engine, 4)))  # still in the inbox when the engine dies
    await asyncio.sleep(STEP_S)
    engine.gate.set()
    for outcome in await outcomes(*tasks):
        assert isinstance(outcome, EngineLostError)
        assert "13 cannot be doubled" in str(outcome)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_crashed_engine_is_unhealthy_and_takes_no_more_requests(engine: Doubler) -> None:
    await engine.check_health()
    with pytest.raises(EngineLostError):
        await ask(engine, 13)
    engine.close()
    with pytest.raises(EngineLostError, match="13 cannot be doubled"):
        await engine.check_health()
    with pytest.raises(EngineLostError, match="13 cannot be doubled"):
        await ask(engine, 1)


async def test_closing_answers_everyone_who_still_waits(engine: Doubler) -> None:
    engine.step_s = 0.05
    tasks = [asyncio.ensure_future(ask(engine, n)) for n in range(4)]
    await until_taken(engine, 4)
    engine.close()
    results = await outcomes(*tasks)
    lost = [r for r in results if isinstance(r, EngineLostError)]
    assert lost
    assert all("closed" in str(r) for r in lost)
    assert all(isinstance(r, tuple | EngineLostError) for r in results)


async def test_closing_twice_is_closing_once(engine: Doubler) -> None:
    engine.close()
    engine.close()
    with pytest.raises(EngineLostError, match="closed"):
        await engine.check_health()


async def test_a_request_that_was_given_up_is_not_computed(engine: Doubler) -> None:
    engine.gate.clear()
    tasks = {n: asyncio.ensure_future(ask(engine, n)) for n in (1, 2, 3)}
    await until_taken(engine, 3)
    tasks[2].cancel()
    await asyncio.wait([tasks[2]])
    engine.gate.set()
    assert await outcomes(tasks[1], tasks[3]) == [(2,), (6,)]
    assert [2] not in engine.computed


async def test_a_request_to_an_engine_that_has_ended_is_told_so(engine: Doubler) -> None:
    engine.close()
    with pytest.raises(EngineLostError, match="closed"):
        async with asyncio.timeout(0.2):
            await engine.generate([1], SAMPLING)


async def test_a_steady_trickle_of_requests_does_not_keep_the_engine_from_starting(engine: Doubler) -> None:
    first = asyncio.ensure_future(ask(engine, 1))
    others = []
    end = time.monotonic() + 0.4
    while time.monotonic() < end and not first.done():
        others.append(asyncio.ensure_future(ask(engine, 2)))
        await asyncio.sleep(0.004)
    started_in_time = first.done() or bool(engine.computed)
    await asyncio.gather(first, *others)
    assert started_in_time


@pytest.fixture
def impatient() -> Iterator[Doubler]:
    """An engine that counts as hung after half a second in a step."""
    engine = Doubler(stall_s=0.5)
    yield engine
    engine.gate.set()
    engine.close()


async def test_a_step_that_does_not_return_is_noticed_and_every_caller_is_told(impatient: Doubler) -> None:
    impatient.gate.clear()
    tasks = [asyncio.ensure_future(ask(impatient, n)) for n in (1, 2)]
    await until_taken(impatient, 2)
    tasks.append(asyncio.ensure_future(ask(impatient, 3)))  # still in the inbox
    assert "a step has taken more than 0.5 s" in str(await until_unhealthy(impatient))
    for outcome in [*await outcomes(*tasks), *await outcomes(asyncio.ensure_future(ask(impatient, 4)))]:
        assert isinstance(outcome, EngineLostError)
        assert "a step has taken more than 0.5 s" in str(outcome)


async def test_an_engine_that_hung_stays_lost_when_its_step_returns_after_all(impatient: Doubler) -> None:
    impatient.gate.clear()
    task = asyncio.ensure_future(ask(impatient, 1))
    await until_taken(impatient, 1)
    await until_unhealthy(impatient)
    impatient.gate.set()
    assert isinstance((await outcomes(task))[0], EngineLostError)
    impatient.close()
    with pytest.raises(EngineLostError, match="more than"):
        await impatient.check_health()


async def test_an_engine_that_hangs_is_closed_without_waiting_for_it(impatient: Doubler) -> None:
    impatient.gate.clear()
    task = asyncio.ensure_future(ask(impatient, 1))
    await until_taken(impatient, 1)
    await until_unhealthy(impatient)
    start = time.monotonic()
    impatient.close()
    assert time.monotonic() - start < PATIENCE_S / 2
    assert isinstance((await outcomes(task))[0], EngineLostError)
    assert not impatient.freed  # its step still computes with it
    impatient.gate.set()
    async with asyncio.timeout(PATIENCE_S):
        while not impatient.freed:
            impatient.close()
            await asyncio.sleep(STEP_S)


async def test_much_work_in_short_steps_and_idleness_are_healthy(impatient: Doubler) -> None:
    impatient.step_s = 0.01
    work = asyncio.gather(*(ask(impatient, n) for n in range(100, 160)))
    while not work.done():
        await impatient.check_health()
        await asyncio.sleep(0.02)
    await work
    await asyncio.sleep(0.6)
    await impatient.check_health()
    assert await ask(impatient, 1) == (2,)
