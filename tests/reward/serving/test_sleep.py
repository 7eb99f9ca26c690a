"""Sleep of a service: the gateway, the board and the replicas, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from scripts import SETTINGS
from served import served
from web import HeldJudge, client, comparisons, get_results, wait_until

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeConfig, Judgment
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.engines.sleep import EngineSleeper
from flex_judge.judges.errors import SleepError
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.server.adapters import START, AdapterSwitch, AdapterVersion
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.prometheus import PrometheusMetrics
from flex_judge.reward.server.sleep import SleepSwitch
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.kept_work import KeptWork
from flex_judge.reward.serving.replica_sleep import ReplicaSleep
from flex_judge.reward.serving.sleep import BoardSleepControl

KEY = {"Idempotency-Key": "one"}
METHODS = ("follow_sleep", "read_sleep", "order_sleep", "collect_sleep_reports")


class Replica:
    """Replica without Ray."""

    def __init__(self, service: Service, name: str) -> None:
        self.held = HeldJudge()
        self.judge: FlexJudge = self.held.judge
        self.problem = ""
        """Makes the engine fail to sleep or wake."""
        engine = self.judge.engine
        assert isinstance(engine, ScriptedEngine)
        self.sleeper = engine.sleeper = EngineSleeper("scripted", self._change_model, self._change_model)
        self.sleep = ReplicaSleep(name, service.handle)
        self.has_model = False

    async def _change_model(self, _: int) -> None:
        if self.problem:
            raise RuntimeError(self.problem)

    async def start(self) -> None:
        await self.sleep.wait_for_wake_order()
        self.has_model = True
        await self.sleep.start(self.judge)


class Service:
    """Gateway, board and replicas, connected without Ray. Comparisons go to the replicas in turn."""

    def __init__(self) -> None:
        self.board = KeptWork(600.0)
        self.replicas: list[Replica] = []
        self._next = 0
        self.handle: Any = SimpleNamespace(**{name: SimpleNamespace(remote=self._call(name)) for name in METHODS})

    def _call(self, name: str) -> Callable[..., Any]:
        return lambda *args: asyncio.ensure_future(getattr(self.board, name)(*args))

    def create_replica(self) -> Replica:
        replica = Replica(self, f"replica-{len(self.replicas)}")
        self.replicas.append(replica)
        return replica

    async def _judge(self, comparison: Comparison) -> Judgment:
        self._next += 1
        return await self.replicas[self._next % len(self.replicas)].judge.ajudge(comparison)

    async def _count_replicas(self) -> int:
        return sum(replica.has_model for replica in self.replicas)

    @asynccontextmanager
    async def gateway(
        self, wakes: bool = False, adapters: AdapterSwitch | None = None, **config: Any
    ) -> AsyncIterator[httpx.AsyncClient]:
        switch = SleepSwitch(BoardSleepControl(self.handle, self._count_replicas), wakes, max_wait_s=5)
        metrics = PrometheusMetrics("judge")
        settings = GatewayConfig(**config)
        async with client(Gateway(self._judge, settings, metrics, adapters=adapters, sleep=switch)) as http:
            yield http


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    for _ in range(2):
        await service.create_replica().start()
    yield service
    for replica in service.replicas:
        replica.sleep.close()


async def sleep(http: httpx.AsyncClient, level: int = 1) -> httpx.Response:
    return await http.post("/v1/sleep", json={"level": level})


async def wake(http: httpx.AsyncClient) -> httpx.Response:
    return await http.post("/v1/wake", json={})


async def judge(http: httpx.AsyncClient, *responses: str, **headers: str) -> httpx.Response:
    return await http.post("/v1/judge", json=comparisons(*responses), headers=headers)


def get_levels(service: Service) -> list[int]:
    return [replica.sleeper.level for replica in service.replicas]


async def test_all_replicas_sleep_and_wake_and_everything_says_so(service: Service) -> None:
    async with service.gateway() as http:
        before = get_results(await judge(http, "a", "b", **KEY))
        assert (await sleep(http, 2)).json() == {"asleep": True, "level": 2}
        assert get_levels(service) == [2, 2]
        answer = await judge(http, "a", "b")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert "the judge sleeps" in answer.json()["error"]
        assert get_results(await judge(http, "a", "b", **KEY)) == before  # an answer that is kept needs no judge
        health = await http.get("/healthz")
        assert health.status_code == 200
        assert {health.json()[name] for name in ("status", "phase", "sleep_level")} == {"asleep", 2}
        metrics = (await http.get("/metrics")).text
        assert 'flex_judge_sleep_level{model="judge"} 2.0' in metrics
        assert 'flex_judge_ready{model="judge"} 1.0' in metrics
        assert (await sleep(http, 1)).json() == {"asleep": True, "level": 2}
        for _ in range(2):
            assert (await wake(http)).json() == {"asleep": False, "level": 0}
        assert get_levels(service) == [0, 0]
        assert get_results(await judge(http, "a", "b")) == before
        assert (await http.get("/healthz")).json()["status"] == "ok"


async def test_accepted_requests_are_answered_before_the_judge_sleeps(service: Service) -> None:
    async with service.gateway() as http:
        accepted = asyncio.create_task(judge(http, "slow one", "slow two"))
        await wait_until(lambda: all(replica.held.started for replica in service.replicas))
        sleeping = [asyncio.create_task(sleep(http)) for _ in range(2)]
        waking = asyncio.create_task(wake(http))
        await asyncio.sleep(0.05)
        assert (await judge(http, "late")).status_code == 503
        assert get_levels(service) == [0, 0]
        for replica in service.replicas:
            replica.held.go.set()
        assert [row["status"] for row in get_results(await accepted)] == ["ok", "ok"]
        assert [answer.json()["level"] for answer in await asyncio.gather(*sleeping)] == [1, 1]
        assert (await waking).json()["level"] == 0
        assert get_levels(service) == [0, 0]


async def test_a_request_may_wake_the_judge(service: Service) -> None:
    async with service.gateway(wakes=True) as http:
        await sleep(http)
        service.replicas[0].problem = "out of memory"
        refused = await judge(http, "answer")
        assert (refused.status_code, "out of memory" in refused.json()["error"]) == (503, True)
        service.replicas[0].problem = ""
        answers = await asyncio.gather(*(judge(http, f"answer {i}") for i in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert get_levels(service) == [0, 0]


async def test_a_replica_that_fails_leaves_all_in_the_earlier_state(service: Service) -> None:
    async with service.gateway() as http:
        service.replicas[1].problem = "out of memory"
        answer = await sleep(http)
        assert answer.status_code == 422
        assert "not all replicas sleep; replica replica-1: " in answer.json()["error"]
        assert "out of memory" in answer.json()["error"]
        assert get_levels(service) == [0, 0]
        assert get_results(await judge(http, "a"))
        service.replicas[1].problem = ""
        await sleep(http)
        service.replicas[1].problem = "out of memory"
        answer = await wake(http)
        assert (answer.status_code, "not all replicas are awake" in answer.json()["error"]) == (422, True)
        assert get_levels(service) == [1, 1]
        assert (await judge(http, "a")).status_code == 503
        service.replicas[1].problem = ""
        assert (await wake(http)).status_code == 200
        assert get_results(await judge(http, "a"))


async def test_a_replica_that_starts_while_the_service_sleeps_loads_nothing(service: Service) -> None:
    async with service.gateway() as http:
        await sleep(http)
        starting = asyncio.create_task(service.create_replica().start())
        await asyncio.sleep(0.05)
        assert not service.replicas[2].has_model
        assert (await wake(http)).status_code == 200
        await starting
        assert service.replicas[2].has_model
        await sleep(http)
        assert get_levels(service) == [1, 1, 1]


async def test_a_new_gateway_and_a_new_board_know_that_the_judge_sleeps(service: Service) -> None:
    async with service.gateway() as http:
        await sleep(http)
    async with service.gateway() as http:
        assert (await http.get("/healthz")).json()["status"] == "asleep"
        assert (await judge(http, "a")).status_code == 503
    service.board = KeptWork(600.0)
    while not (await service.board.read_sleep()).level:  # the replicas tell it
        await asyncio.sleep(0.01)
    async with service.gateway() as http:
        assert (await judge(http, "a")).status_code == 503
        assert (await wake(http)).status_code == 200
        assert get_results(await judge(http, "a"))
    async with service.gateway() as http:
        assert get_results(await judge(http, "a"))


class SlowLoader:
    """`AdapterLoader` that can be held."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def read_current(self) -> AdapterVersion:
        return START

    async def load(self, name: str, path: str, current: AdapterVersion) -> AdapterVersion:
        await self.go.wait()
        return AdapterVersion(number=1, name=name, path=path, fingerprint="f")

    async def commit(self, version: AdapterVersion) -> None:
        pass

    async def keep_only(self, numbers: Any) -> None:
        pass


async def test_an_adapter_is_loaded_before_or_after_the_sleep(service: Service, tmp_path: Path) -> None:
    loader = SlowLoader()
    switch = AdapterSwitch("base", "base", loader, str(tmp_path))
    async with service.gateway(adapters=switch) as http:
        loading = asyncio.create_task(http.put("/v1/adapters/new", json={"path": "new"}))
        await asyncio.sleep(0.05)
        sleeping = asyncio.create_task(sleep(http))
        late = asyncio.create_task(http.put("/v1/adapters/late", json={"path": "late"}))
        await asyncio.sleep(0.05)
        assert get_levels(service) == [0, 0]
        loader.go.set()
        assert (await loading).status_code == 200
        assert (await sleeping).status_code == 200
        assert (await late).status_code == 503
        assert (await http.get("/v1/adapters")).json()["adapters"][0]["name"] == "new"


async def test_a_service_sleeps_only_if_it_may(service: Service) -> None:
    gateway = Gateway(FlexJudge(ScriptedEngine(lambda *_: ""), SETTINGS).ajudge)
    async with client(gateway) as http:
        for answer in (await sleep(http), await wake(http)):
            assert answer.status_code == 422
            assert "start it with --allow-sleep" in answer.json()["error"]
    async with service.gateway() as http:
        assert (await http.post("/v1/sleep", json={"level": 3})).json()["field"] == "level"
        assert (await http.post("/v1/wake", content=b"{}")).status_code == 415
    config = ServiceConfig.from_args({"model": "smollm2-135m", "allow_sleep": True, "wake_on_request": True})
    assert config.judge.engine.allow_sleep
    assert config.gateway is not None
    assert config.gateway.wake_on_request
    assert not ServiceConfig(JudgeConfig(EngineConfig("smollm2-135m"))).judge.engine.allow_sleep


def test_the_client_names_the_flag_of_a_service_that_may_not_sleep() -> None:
    with served(HeldJudge().judge) as running, pytest.raises(SleepError, match="start it with --allow-sleep"):
        JudgeClient(running.url).sleep_sync()
