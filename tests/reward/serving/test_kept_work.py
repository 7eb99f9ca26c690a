"""Work that outlives a gateway: the next one gives its answers, and waits for what replicas still judge."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from web import HeldJudge, client, comparisons, get_statuses, samples, wait_until

from flex_judge.judges import Comparison, Judgment, Status
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.idempotency import KeptAnswer
from flex_judge.reward.serving.dispatch import Dispatcher, ReplicaDiedError
from flex_judge.reward.serving.kept_work import (
    SILENT_S,
    KeptWork,
    WorkArchive,
    find_recent_judgment,
)
from flex_judge.reward.serving.work_recorder import WorkEvent, WorkRecorder, compute_work_key

KEY = {"Idempotency-Key": "one"}
SCOPE = "judge"


class Clock:
    """Clock that only moves when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def get_handle(store: KeptWork) -> Any:
    """Return an object whose methods are called with `remote`, like those of a Ray Serve handle."""

    def make_remote(method: Any) -> Any:
        return SimpleNamespace(remote=lambda *args: asyncio.ensure_future(method(*args)))

    names = ("record_events", "list_leftovers", "wait_for_judgment", "get_judgment", "get_answer")
    return SimpleNamespace(**{name: make_remote(getattr(store, name)) for name in names})


class Replica:
    """Judge that records its work, as in `JudgeReplica`; it goes on when the gateway dies."""

    def __init__(self, store: KeptWork) -> None:
        self.held = HeldJudge()
        self._recorder = WorkRecorder(get_handle(store), "replica")
        self.tasks: set[asyncio.Task[Judgment]] = set()

    async def judge(self, comparison: Comparison) -> Judgment:
        task = asyncio.create_task(self._judge(comparison))
        self.tasks.add(task)
        return await asyncio.shield(task)

    async def _judge(self, comparison: Comparison) -> Judgment:
        key, judgment = compute_work_key(SCOPE, comparison.digest), None
        self._recorder.record_start(key)
        try:
            judgment = await self.held.judge.ajudge(comparison)
        finally:
            self._recorder.record_end(key, judgment)
        return judgment


@asynccontextmanager
async def new_gateway(store: KeptWork, replica: Replica, scope: str = SCOPE) -> AsyncIterator[httpx.AsyncClient]:
    archive = WorkArchive(get_handle(store), scope, replica.judge)
    async with client(Gateway(archive.judge, archive=archive)) as http:
        yield http


async def test_a_new_gateway_gives_the_answers_of_the_one_before() -> None:
    store, body = KeptWork(600.0), comparisons("a", "b")
    replica = Replica(store)
    async with new_gateway(store, replica) as http:
        first = await http.post("/v1/judge", json=body, headers=KEY)
    async with new_gateway(store, replica) as http:
        second = await http.post("/v1/judge", json=body, headers=KEY)
        refused = await http.post("/v1/judge", json=comparisons("c"), headers=KEY)
    assert first.text == second.text
    assert replica.held.started == {"a": 1, "b": 1}
    assert (refused.status_code, refused.json()["field"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize("path", ["/v1/judge", "/v1/rewards"])
async def test_a_new_gateway_uses_finished_and_running_judgments_of_unanswered_requests(path: str) -> None:
    store = KeptWork(600.0)
    replica = Replica(store)
    body = (comparisons if path == "/v1/judge" else samples)("a", "slow b", "slow c")
    async with new_gateway(store, replica) as http:
        sent = asyncio.create_task(http.post(path, json=body, headers=KEY))
        await wait_until(lambda: replica.held.started.total() == 3)
    sent.cancel()
    await asyncio.gather(sent, return_exceptions=True)
    async with new_gateway(store, replica) as http:
        again = asyncio.create_task(http.post(path, json=body, headers=KEY))
        await asyncio.sleep(0.05)
        replica.held.go.set()
        assert get_statuses(await again) == ["ok"] * 3
        ids = [row["id"] for row in again.result().json().get("judgments", [])]
    assert ids in ([], ["id of a", "id of slow b", "id of slow c"])
    assert replica.held.started == {"a": 1, "slow b": 1, "slow c": 1}


async def test_work_of_another_judge_does_not_count() -> None:
    store = KeptWork(600.0)
    replica = Replica(store)
    for scope in (SCOPE, "updated judge"):
        async with new_gateway(store, replica, scope) as http:
            assert get_statuses(await http.post("/v1/judge", json=comparisons("a"), headers=KEY)) == ["ok"]
    assert replica.held.started == {"a": 2}


async def test_requests_of_one_gateway_are_judged_independently() -> None:
    store = KeptWork(600.0)
    replica = Replica(store)
    async with new_gateway(store, replica) as http:
        for key in ("one", "two"):
            await http.post("/v1/judge", json=comparisons("a"), headers={"Idempotency-Key": key})
    assert replica.held.started == {"a": 2}


async def test_running_work_of_a_replica_that_falls_silent_is_judged_anew() -> None:
    clock = Clock()
    store = KeptWork(600.0, clock)
    await store.record_events("dead replica", [WorkEvent("key", has_started=True)])
    assert (await store.list_leftovers()).comparisons == {"key"}
    clock.now += SILENT_S + 1
    assert await store.wait_for_judgment("key") is None
    assert not (await store.list_leftovers()).comparisons


async def test_a_replica_that_judges_for_long_gives_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.work_recorder.BEAT_S", 0.01)
    beats: list[int] = []
    store = SimpleNamespace(record_events=SimpleNamespace(remote=lambda _, events: _record(beats, len(events))))
    recorder = WorkRecorder(store, "replica")
    recorder.record_start("key")
    await wait_until(lambda: len(beats) > 5)
    recorder.record_end("key", None)
    await asyncio.sleep(0.05)
    count = len(beats)
    await asyncio.sleep(0.05)
    assert len(beats) == count
    assert sum(beats) == 2


async def _record(beats: list[int], count: int) -> None:
    beats.append(count)


async def test_kept_work_is_bounded_in_time_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.kept_work.MAX_ANSWERS_BYTES", 1000)
    clock = Clock()
    store = KeptWork(60.0, clock)
    for i in range(10):
        await store.record_events("replica", [WorkEvent(f"{i}", b"x" * 300)])
        await store.record_events("gateway", [WorkEvent(f"{i}", b"x" * 300, fingerprint="f")])
    leftovers = await store.list_leftovers()
    assert leftovers.comparisons == leftovers.answers == {"7", "8", "9"}
    clock.now += 61
    assert await store.get_answer("9") is None
    leftovers = await store.list_leftovers()
    assert not leftovers.comparisons | leftovers.answers


async def test_the_store_never_sees_keys_or_texts_of_clients_as_names() -> None:
    store = KeptWork(600.0)
    replica = Replica(store)
    async with new_gateway(store, replica) as http:
        await http.post("/v1/judge", json=comparisons("secret text"), headers={"Idempotency-Key": "secret key"})
    leftovers = await store.list_leftovers()
    assert len(leftovers.answers) == len(leftovers.comparisons) == 1
    assert not any("secret" in name for name in leftovers.answers | leftovers.comparisons)


async def test_a_service_whose_store_is_away_judges_as_usual(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(*_: Any) -> None:
        raise ConnectionError("away")

    names = ("record_events", "list_leftovers", "wait_for_judgment", "get_answer")
    broken: Any = SimpleNamespace(**{name: SimpleNamespace(remote=partial(fail)) for name in names})
    held = HeldJudge()
    archive = WorkArchive(broken, SCOPE, held.judge.ajudge)
    async with client(Gateway(archive.judge, archive=archive)) as http:
        for key in ("one", "two"):
            answer = await http.post("/v1/judge", json=comparisons("a"), headers={"Idempotency-Key": key})
            assert get_statuses(answer) == ["ok"]
    assert sum("not kept for retries" in message for message in caplog.messages) == 1


async def test_a_judgment_whose_replica_died_before_it_answered_is_used() -> None:
    store = KeptWork(600.0)
    replica = Replica(store)

    async def send(comparison: Comparison) -> Judgment:
        await replica.judge(comparison)
        if comparison.responses[0] == "lost" and replica.held.started["lost"] == 1:
            raise ReplicaDiedError("replica")
        return Judgment(comparison.id, Status.OK, (0.0,), None, "judged again")

    find_judgment = partial(find_recent_judgment, get_handle(store), SCOPE)
    dispatcher = Dispatcher(send, max_requests=5, find_judgment=find_judgment)
    judgment = await dispatcher.judge(Comparison.of("Question?", "lost", id="one"))
    assert (judgment.id, judgment.status) == ("one", Status.OK)
    assert judgment.reasoning != "judged again"
    assert replica.held.started == {"lost": 1}


async def test_judgments_of_earlier_requests_are_not_recent() -> None:
    clock = Clock()
    store = KeptWork(600.0, clock)
    comparison = Comparison.of("Question?", "a", id="first")
    await Replica(store).judge(comparison)
    await wait_until(lambda: store._judgments.keys())
    clock.now += 60
    ages: list[bool] = []
    for max_age_s in (61.0, 59.0):
        ages.append(await find_recent_judgment(get_handle(store), SCOPE, comparison, max_age_s) is not None)
    assert ages == [True, False]


@pytest.mark.parametrize("is_silent", [True, False])
async def test_a_store_that_is_away_means_that_a_comparison_is_judged_again(
    is_silent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.kept_work.LOOKUP_S", 0.01)

    async def fail(*_: Any) -> None:
        if is_silent:
            await asyncio.Event().wait()
        raise ConnectionError("away")

    store = SimpleNamespace(get_judgment=SimpleNamespace(remote=fail))
    assert await find_recent_judgment(store, SCOPE, Comparison.of("Question?", "a"), 1.0) is None


async def test_judgments_take_the_id_of_the_new_request() -> None:
    store = KeptWork(600.0)
    replica = Replica(store)
    comparison = Comparison.of("Question?", "a", id="first")
    await replica.judge(comparison)
    archive = WorkArchive(get_handle(store), SCOPE, replica.judge)
    judgment = await archive.judge(replace(comparison, id="second"))
    assert (judgment.id, judgment.status) == ("second", Status.OK)
    assert replica.held.started == {"a": 1}
    await archive.keep_answer("key", KeptAnswer("fingerprint", b"answer"))
    assert (await archive.find_answer("key")) is None  # this gateway answers its own requests from its own memory
