"""Dispatch of comparisons to replicas that die."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from flex_judge.judges import Comparison, Judgment, Status, UsageError
from flex_judge.reward.server.metrics import ServiceMetrics
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError


class Replicas:
    """Replicas that die when they judge `poison`, together with all their comparisons."""

    def __init__(self, count: int = 2) -> None:
        self.count = count
        self.num_started = 0
        self.running: list[tuple[str, dict[asyncio.Future[Judgment], str]]] = [self._new() for _ in range(count)]
        self.judged: Counter[str] = Counter()
        self.deaths = 0
        self.next = 0

    def _new(self) -> tuple[str, dict[asyncio.Future[Judgment], str]]:
        self.num_started += 1
        return f"replica {self.num_started}", {}

    def kill(self, place: int) -> None:
        name, futures = self.running[place]
        self.running[place] = self._new()
        self.deaths += 1
        for future in [f for f in futures if not f.done()]:
            future.set_exception(ReplicaDiedError(name))

    async def send(self, comparison: Comparison) -> Judgment:
        self.next += 1
        place = self.next % self.count
        future: asyncio.Future[Judgment] = asyncio.get_running_loop().create_future()
        running = self.running[place][1]
        running[future] = comparison.id
        asyncio.get_running_loop().call_later(0.01, self._finish, place, future)
        try:
            return await future
        finally:
            running.pop(future, None)

    def _finish(self, place: int, future: asyncio.Future[Judgment]) -> None:
        if future.done():
            return
        name = self.running[place][1][future]
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
    judgments = await judge_all(replicas, [f"c{i}" for i in range(20)])
    assert all(j.status == Status.OK for j in judgments.values())
    assert set(replicas.judged.values()) == {1}


async def test_quarantines_a_sole_killer_after_two_replicas() -> None:
    replicas = Replicas()
    judgments = await judge_all(replicas, ["poison"])
    assert judgments["poison"].status == Status.ENGINE_LOST
    assert judgments["poison"].scores is None
    assert "2 judge replicas died" in judgments["poison"].votes[0].detail
    assert replicas.deaths == 2


@pytest.mark.parametrize(("company", "deaths"), [(0, 2), (1, 2), (7, 2), (40, 3)])
async def test_a_killer_takes_down_few_replicas_whatever_its_company(company: int, deaths: int) -> None:
    replicas = Replicas(count=1)
    names = ["poison", *(f"c{i}" for i in range(company))]
    judgments = await judge_all(replicas, names)
    assert [name for name, j in judgments.items() if j.status != Status.OK] == ["poison"]
    assert f"{deaths} judge replicas died while they judged this comparison" in judgments["poison"].detail
    assert replicas.deaths == deaths
    assert replicas.judged == dict.fromkeys(names[1:], 1)


async def test_a_few_victims_do_not_wait_behind_the_queue_again() -> None:
    replicas = Replicas(count=1)
    dispatcher = Dispatcher(replicas.send, max_requests=2)
    asyncio.get_running_loop().call_later(0.005, replicas.kill, 0)
    await asyncio.gather(*(dispatcher.judge(comparison(f"c{i}")) for i in range(100)))
    assert set(replicas.judged.values()) == {1}
    assert {"c0", "c1"} < set(list(replicas.judged)[:40])


async def test_victims_of_several_replicas_are_tried_again_together() -> None:
    replicas, max_running = Replicas(count=4), 0

    async def send(c: Comparison) -> Judgment:
        nonlocal max_running
        if replicas.deaths:
            max_running = max(max_running, 1 + sum(len(futures) for _, futures in replicas.running))
        return await replicas.send(c)

    for place in range(4):
        asyncio.get_running_loop().call_later(0.005, replicas.kill, place)
    dispatcher = Dispatcher(send, max_requests=1000)
    judgments = await asyncio.gather(*(dispatcher.judge(comparison(f"c{i}")) for i in range(32)))
    assert {judgment.status for judgment in judgments} == {Status.OK}
    assert max_running == 32


async def test_new_comparisons_are_not_blamed_for_the_death_of_a_replica_with_suspects() -> None:
    replicas = Replicas(count=1)
    dispatcher = Dispatcher(replicas.send, max_requests=1000)
    killers = [asyncio.create_task(dispatcher.judge(comparison(f"poison {i}"))) for i in range(4)]
    others: list[asyncio.Task[Judgment]] = []
    while not all(task.done() for task in killers):
        others.append(asyncio.create_task(dispatcher.judge(comparison(f"c{len(others)}"))))
        await asyncio.sleep(0.002)
    assert {judgment.status for judgment in await asyncio.gather(*killers)} == {Status.ENGINE_LOST}
    assert {judgment.status for judgment in await asyncio.gather(*others)} == {Status.OK}
    assert replicas.deaths <= 2 + len(killers)  # the first two are those of all killers together


@pytest.mark.parametrize("is_found", [True, False])
async def test_a_comparison_that_was_judged_before_its_replica_died_is_not_judged_again(is_found: bool) -> None:
    replicas, asked = Replicas(), []

    async def find_judgment(c: Comparison, max_age_s: float) -> Judgment | None:
        asked.append((c.id, max_age_s > 0))
        return Judgment(c.id, Status.OK, (1.0,), None, "") if is_found else None

    dispatcher = Dispatcher(replicas.send, 1000, find_judgment=find_judgment)
    asyncio.get_running_loop().call_later(0.005, replicas.kill, 1)
    judgment = await dispatcher.judge(comparison("c"))
    assert judgment.scores == ((1.0,) if is_found else (3.0,))
    assert asked == [("c", True)]
    assert replicas.next == (1 if is_found else 2)


async def test_killers_do_not_affect_other_comparisons() -> None:
    replicas = Replicas()
    names = [f"c{i}" for i in range(30)] + ["poison 1", "poison 2"] + [f"d{i}" for i in range(30)]
    judgments = await judge_all(replicas, names)
    lost = {name for name, j in judgments.items() if j.status == Status.ENGINE_LOST}
    assert lost == {"poison 1", "poison 2"}
    assert replicas.deaths <= 6
    assert set(replicas.judged.values()) == {1}


async def test_a_comparison_that_cannot_be_judged_is_counted_and_not_sent_again() -> None:
    sent: list[str] = []
    counted: Counter[str] = Counter()

    class Counts(ServiceMetrics):
        def record_judgment(self, judgment: Judgment, seconds: float) -> None:
            counted[str(judgment.status)] += 1

        def record_retry(self) -> None:
            counted["retry"] += 1

    async def send(c: Comparison) -> Judgment:
        sent.append(c.id)
        if c.id == "long":
            return Judgment.from_failure(c.id, Status.INVALID_INPUT, "images[0]: too elongated")
        return Judgment(c.id, Status.OK, (1.0,), None, "")

    dispatcher = Dispatcher(send, max_requests=1, metrics=Counts())
    judgments = [await dispatcher.judge(comparison(name)) for name in ("a", "long", "b")]
    assert [str(j.status) for j in judgments] == ["ok", "invalid_input", "ok"]
    assert sent == ["a", "long", "b"]
    assert counted == {"ok": 2, "invalid_input": 1}


async def test_unknown_rubric_raises_its_error() -> None:
    async def send(c: Comparison) -> Judgment:
        raise UsageError(f"comparison {c.id!r}: no such rubric")

    with pytest.raises(UsageError, match="no such rubric"):
        await Dispatcher(send, max_requests=1).judge(comparison("c"))


async def test_limits_concurrent_comparisons() -> None:
    running = max_running = 0

    async def send(c: Comparison) -> Judgment:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        await asyncio.sleep(0)
        running -= 1
        return Judgment(c.id, Status.OK, (1.0,), None, "")

    dispatcher = Dispatcher(send, max_requests=3)
    await asyncio.gather(*(dispatcher.judge(comparison(str(i))) for i in range(12)))
    assert max_running == 3


async def test_records_judgments_and_retries() -> None:
    class RecordingMetrics(ServiceMetrics):
        statuses: Counter[str] = Counter()  # noqa: RUF012
        retries = 0

        def record_judgment(self, judgment: Judgment, seconds: float) -> None:
            self.statuses[judgment.status] += 1
            assert seconds > 0

        def record_retry(self) -> None:
            self.retries += 1

    metrics = RecordingMetrics()
    await judge_all(Replicas(), ["poison", "c"], metrics)
    assert metrics.statuses == {Status.ENGINE_LOST: 1, Status.OK: 1}
    assert metrics.retries >= 1
