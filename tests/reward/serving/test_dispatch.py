"""Comparisons on replicas that die."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from flex_judge.judges import Comparison, Judgment, Status, UsageError
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError


class Replicas:
    """Judges on which `poison` is deadly: the replica dies, and everything that it had in hand with it."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.born = 0
        self.aboard: list[tuple[str, dict[asyncio.Future[Judgment], str]]] = [self._new() for _ in range(count)]
        self.judged: Counter[str] = Counter()
        self.deaths = 0
        self.next = 0

    def _new(self) -> tuple[str, dict[asyncio.Future[Judgment], str]]:
        self.born += 1
        return f"replica {self.born}", {}

    def kill(self, place: int) -> None:
        name, futures = self.aboard[place]
        self.aboard[place] = self._new()
        self.deaths += 1
        for future in [f for f in futures if not f.done()]:
            future.set_exception(ReplicaDiedError(name))

    async def send(self, comparison: Comparison) -> Judgment:
        self.next += 1
        place = self.next % self.count
        future: asyncio.Future[Judgment] = asyncio.get_running_loop().create_future()
        aboard = self.aboard[place][1]
        aboard[future] = comparison.id
        asyncio.get_running_loop().call_later(0.01, self._finish, place, future)
        try:
            return await future
        finally:
            aboard.pop(future, None)

    def _finish(self, place: int, future: asyncio.Future[Judgment]) -> None:
        if future.done():
            return
        name = self.aboard[place][1][future]
        if name.startswith("poison"):
            self.kill(place)
        else:
            self.judged[name] += 1
            future.set_result(Judgment(name, Status.OK, (3.0,), None, ""))


def comparison(name: str) -> Comparison:
    return Comparison.of("Question?", "answer", id=name)


@pytest.fixture(autouse=True)
def shorten_victim_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.dispatch.VICTIM_WINDOW_S", 0.01)


async def judge_all(replicas: Replicas, names: list[str], metrics: ServiceMetrics | None = None) -> dict[str, Judgment]:
    dispatcher = Dispatcher(replicas.send, max_requests=1000, metrics=metrics)
    judgments = await asyncio.gather(*(dispatcher.judge(comparison(name)) for name in names))
    assert [j.id for j in judgments] == names
    return {j.id: j for j in judgments}


async def test_another_replica_judges_the_comparisons_of_a_dead_one() -> None:
    replicas = Replicas()
    asyncio.get_running_loop().call_later(0.005, replicas.kill, 0)
    found = await judge_all(replicas, [f"c{i}" for i in range(20)])
    assert all(j.status == Status.OK for j in found.values())
    assert set(replicas.judged.values()) == {1}


async def test_quarantines_a_sole_killer_after_two_replicas() -> None:
    replicas = Replicas()
    found = await judge_all(replicas, ["poison"])
    assert found["poison"].status == Status.ENGINE_LOST
    assert found["poison"].scores is None
    assert "2 judge replicas died" in found["poison"].votes[0].detail
    assert replicas.deaths == 2


async def test_killers_do_not_affect_other_comparisons() -> None:
    replicas = Replicas()
    names = [f"c{i}" for i in range(30)] + ["poison 1", "poison 2"] + [f"d{i}" for i in range(30)]
    found = await judge_all(replicas, names)
    lost = {name for name, j in found.items() if j.status == Status.ENGINE_LOST}
    assert lost == {"poison 1", "poison 2"}
    assert replicas.deaths <= 6
    assert set(replicas.judged.values()) == {1}


async def test_an_invalid_comparison_fails_alone() -> None:
    async def send(c: Comparison) -> Judgment:
        raise UsageError(f"comparison {c.id!r}: no such rubric")

    with pytest.raises(UsageError, match="no such rubric"):
        await Dispatcher(send, max_requests=1).judge(comparison("c"))


async def test_limits_concurrent_comparisons() -> None:
    under_way = most = 0

    async def send(c: Comparison) -> Judgment:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return Judgment(c.id, Status.OK, (1.0,), None, "")

    dispatcher = Dispatcher(send, max_requests=3)
    await asyncio.gather(*(dispatcher.judge(comparison(str(i))) for i in range(12)))
    assert most == 3


async def test_records_judgments_and_retries() -> None:
    class Told(ServiceMetrics):
        statuses: Counter[str] = Counter()  # noqa: RUF012
        retries = 0

        def record_judgment(self, judgment: Judgment, seconds: float) -> None:
            self.statuses[judgment.status] += 1
            assert seconds > 0

        def record_retry(self) -> None:
            self.retries += 1

    told = Told()
    await judge_all(Replicas(), ["poison", "c"], told)
    assert told.statuses == {Status.ENGINE_LOST: 1, Status.OK: 1}
    assert told.retries >= 1
