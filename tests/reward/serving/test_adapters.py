"""Replacement of the judge's adapter: the gateway, the board and the replicas of a service, without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from scripts import SETTINGS, adapted_judge
from web import client, comparisons, get_results, samples, wait_until

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeConfig, Judgment
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UsageError
from flex_judge.reward.server.adapters import START, AdapterSwitch, AdapterVersion
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.prometheus import PrometheusMetrics
from flex_judge.reward.serving.adapters import BoardLoader
from flex_judge.reward.serving.config import ServiceConfig
from flex_judge.reward.serving.kept_work import KeptWork, WorkArchive
from flex_judge.reward.serving.replica_adapters import ReplicaAdapters
from flex_judge.reward.serving.work_recorder import WorkRecorder, compute_work_key

KEY = {"Idempotency-Key": "one"}
METHODS = ("follow_adapters", "report_adapter", "propose_adapter", "collect_reports", "commit_adapter", "keep_adapters")
METHODS += ("record_events", "list_leftovers", "wait_for_judgment", "get_judgment", "get_answer")


class Replica:
    """Replica without Ray; it records its judgments as `JudgeReplica` does."""

    def __init__(self, service: Service, name: str) -> None:
        self._service = service
        self.name = name
        self.engine = ScriptedEngine(adapted_judge)
        self.adapters = ReplicaAdapters(FlexJudge(self.engine, SETTINGS), name, service.handle, str(service.folder))
        self._recorder = WorkRecorder(service.handle, name)

    async def judge(self, comparison: Comparison, version: AdapterVersion | None) -> Judgment:
        async with self.adapters.use_judge(version) as (judge, used):
            key, judgment = compute_work_key("scope", comparison.digest, used.key), None
            self._recorder.record_start(key)
            try:
                judgment = await judge.ajudge(comparison)
            finally:
                self._recorder.record_end(key, judgment)
        return replace(judgment, provenance={**judgment.provenance, "replica": self.name})


class Service:
    """Gateway, board and replicas, connected without Ray. Comparisons go to the replicas in turn."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.board = KeptWork(600.0)
        self.replicas: list[Replica] = []
        self._next = 0
        self.used: list[str] = []
        """Key of the adapter of each comparison so far."""
        names = {name: SimpleNamespace(remote=self._make_remote(name)) for name in METHODS}
        self.handle: Any = SimpleNamespace(**names)

    def _make_remote(self, name: str) -> Callable[..., Any]:
        return lambda *args: asyncio.ensure_future(getattr(self.board, name)(*args))

    async def add_replica(self) -> Replica:
        replica = Replica(self, f"replica-{len(self.replicas)}")
        self.replicas.append(replica)
        await replica.adapters.start()
        return replica

    @asynccontextmanager
    async def gateway(self, **config: Any) -> AsyncIterator[httpx.AsyncClient]:
        async def judge_somewhere(comparison: Comparison) -> Judgment:
            self._next += 1
            self.used.append(switch.choose().key)
            return await self.replicas[self._next % len(self.replicas)].judge(comparison, switch.choose())

        async def count_replicas() -> int:
            return len(self.replicas)

        async def get_health() -> dict[str, Any]:
            return {"model": switch.model}

        metrics = PrometheusMetrics("base")
        switch = AdapterSwitch("base", "base", BoardLoader(self.handle, count_replicas), str(self.folder))
        switch.listeners.append(metrics.set_model)
        archive = WorkArchive(self.handle, "scope", judge_somewhere, lambda: switch.choose().key)
        settings = GatewayConfig(allow_adapter_updates=str(self.folder), **config)
        async with client(Gateway(archive.judge, settings, metrics, get_health, archive, switch)) as http:
            yield http

    def close(self) -> None:
        for replica in self.replicas:
            replica.adapters.close()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    service = Service(tmp_path / "adapters")
    for name, settings in {"two": {"score": 2}, "three": {"score": 3}, "broken": {"fail": True}}.items():
        write_adapter(service.folder / name, settings)
    write_adapter(service.folder / "unlucky", {"score": 4, "fail_once": True})
    write_adapter(tmp_path / "outside", {"score": 5})
    for _ in range(2):
        await service.add_replica()
    yield service
    service.close()


def write_adapter(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_text("")


async def put(http: httpx.AsyncClient, name: str, path: str | None = None) -> httpx.Response:
    return await http.put(f"/v1/adapters/{name}", json={"path": path or name})


async def judge(http: httpx.AsyncClient, *responses: str, **headers: str) -> list[dict[str, Any]]:
    return get_results(
        await http.post("/v1/judge", json=comparisons(*responses, rubric="correctness"), headers=headers)
    )


def get_scores(rows: list[dict[str, Any]]) -> list[float]:
    return [row["scores"][0] for row in rows]


async def test_every_replica_switches_and_everything_names_the_new_model(service: Service) -> None:
    async with service.gateway() as http:
        before = await judge(http, "a", "b")
        assert get_scores(before) == [1, 1]
        listed = (await http.get("/v1/adapters")).json()
        assert listed["allows_updates"] is True
        assert (listed["adapters"][0]["name"], listed["adapters"][0]["model"]) == (None, "base")
        answer = await put(http, "tuned", "two")
        assert answer.status_code == 200, answer.text
        card = answer.json()
        assert (card["name"], card["model"]) == ("tuned", f"base+tuned@{card['fingerprint']}")
        after = await judge(http, "a", "b", "c", "d")
        assert get_scores(after) == [2, 2, 2, 2]
        assert {row["provenance"]["replica"] for row in after} == {"replica-0", "replica-1"}
        assert {row["model"] for row in after} == {f"scripted+tuned@{card['fingerprint']}"}
        assert not {row["provenance"]["key"] for row in before} & {row["provenance"]["key"] for row in after}
        assert (await http.get("/healthz")).json()["model"] == card["model"]
        assert (await http.get("/v1/models")).json()["data"][0]["id"] == card["model"]
        assert (await http.get("/v1/adapters")).json()["adapters"] == [card]
        metrics = (await http.get("/metrics")).text
        assert f'flex_judge_ready{{model="{card["model"]}"}} 1.0' in metrics
        assert 'flex_judge_ready{model="base"}' not in metrics


async def test_the_same_adapter_again_changes_nothing_and_new_content_does(service: Service) -> None:
    async with service.gateway() as http:
        first = (await put(http, "tuned", "two")).json()
        assert (await put(http, "tuned", str(service.folder / "two"))).json() == first
        write_adapter(service.folder / "two", {"score": 5})
        second = (await put(http, "tuned", "two")).json()
        assert second["fingerprint"] != first["fingerprint"]
        assert get_scores(await judge(http, "a", "b")) == [5, 5]
        await wait_until(lambda: all(len(replica.adapters._judges) == 1 for replica in service.replicas))


async def test_judgments_in_progress_finish_with_the_earlier_adapter(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service.gateway() as http:
        monkeypatch.setenv("FLEX_JUDGE_TEST_THINK", "1")
        running = asyncio.create_task(judge(http, *"abcdef"))
        await wait_until(lambda: sum(len(replica.engine.requests) for replica in service.replicas) >= 6)
        monkeypatch.setenv("FLEX_JUDGE_TEST_THINK", "0")
        assert (await put(http, "two")).status_code == 200
        assert not running.done()
        assert get_scores(await judge(http, "a", "b")) == [2, 2]
        # A third adapter is loaded only once the first one is out of use.
        assert (await put(http, "three")).status_code == 200
        assert running.done()
        assert get_scores(running.result()) == [1] * 6
        assert get_scores(await judge(http, "a", "b")) == [3, 3]


async def test_a_group_has_one_adapter(service: Service) -> None:
    settings = {"method": "round_robin", "reward": "win_rate", "group_size": 3, "rubric": "correctness"}
    async with service.gateway() as http:
        waiting = [asyncio.create_task(http.post("/v1/rewards", json=samples(r, **settings))) for r in ("a", "b")]
        await asyncio.sleep(0.1)
        assert (await put(http, "two")).status_code == 200
        last = await http.post("/v1/rewards", json=samples("c", **settings))
        answers = [*(await asyncio.gather(*waiting)), last]
    assert [get_results(answer)[0]["status"] for answer in answers] == ["ok"] * 3
    assert service.used == [""] * 3  # the adapter that was current when the first member arrived


@pytest.mark.parametrize("name", ["broken", "unlucky"])
async def test_if_one_replica_cannot_load_it_all_keep_the_earlier_adapter(service: Service, name: str) -> None:
    async with service.gateway() as http:
        first = (await put(http, "two")).json()
        answer = await put(http, name)
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert f"all replicas keep the adapter two@{first['fingerprint']}" in error
        assert "of 2 replicas could not load the adapter" in error
        assert ("out of memory on this replica" if name == "unlucky" else "its weights are damaged") in error
        assert get_scores(await judge(http, "a", "b", "c")) == [2, 2, 2]
        assert (await http.get("/v1/adapters")).json()["adapters"] == [first]
        await wait_until(lambda: all(len(replica.adapters._judges) == 1 for replica in service.replicas))
        if name == "unlucky":
            assert (await put(http, name)).status_code == 200
            assert get_scores(await judge(http, "a", "b", "c")) == [4, 4, 4]


async def test_a_new_replica_loads_the_current_adapter_before_it_takes_work(service: Service) -> None:
    async with service.gateway() as http:
        await put(http, "two")
        service.replicas.pop().adapters.close()
        new = await service.add_replica()
        assert new.adapters._current.name == "two"
        assert get_scores(await judge(http, "a", "b", "c", "d")) == [2] * 4


async def test_a_new_replica_refuses_to_start_with_files_that_changed(service: Service) -> None:
    async with service.gateway() as http:
        await put(http, "two")
        write_adapter(service.folder / "two", {"score": 9})
        with pytest.raises(ValueError, match="give each version of an adapter a folder of its own"):
            await service.add_replica()


async def test_a_new_gateway_goes_on_with_the_adapter_also_if_the_board_is_lost(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.store_calls.WATCH_S", 0.1)
    async with service.gateway() as http:
        card = (await put(http, "two")).json()
    async with service.gateway() as http:
        assert (await http.get("/v1/adapters")).json()["adapters"][0]["model"] == card["model"]
    service.board = KeptWork(600.0)
    await wait_until(lambda: service.board._plan.current.name == "two")
    async with service.gateway() as http:
        assert get_scores(await judge(http, "a", "b")) == [2, 2]
        assert (await put(http, "three")).status_code == 200
        assert get_scores(await judge(http, "a", "b")) == [3, 3]


async def test_kept_work_of_an_earlier_adapter_is_never_returned(service: Service) -> None:
    async with service.gateway() as http:
        assert get_scores(await judge(http, "a", **KEY)) == [1]
        await put(http, "two")
        assert get_scores(await judge(http, "a", **KEY)) == [2]
        requests = sum(len(replica.engine.requests) for replica in service.replicas)
        assert get_scores(await judge(http, "a", **KEY)) == [2]
        assert sum(len(replica.engine.requests) for replica in service.replicas) == requests
    async with service.gateway() as http:
        assert get_scores(await judge(http, "a", **KEY)) == [2]
        assert sum(len(replica.engine.requests) for replica in service.replicas) == requests
        await put(http, "three")
        assert get_scores(await judge(http, "a", **KEY)) == [3]
        assert get_scores(await judge(http, "a")) == [3]


@pytest.mark.parametrize(
    ("name", "path", "field"),
    [
        ("tuned", "../outside", "path"),
        ("tuned", "/etc", "path"),
        ("tuned", ".", "path"),
        ("tuned", "two\0", "path"),
        ("tuned", "", "path"),
        (".hidden", "two", "name"),
        ("a b", "two", "name"),
        ("n" * 65, "two", "name"),
    ],
)
async def test_names_and_paths_are_limited(service: Service, name: str, path: str, field: str) -> None:
    async with service.gateway() as http:
        answer = await http.put(f"/v1/adapters/{name}", json={"path": path})
        assert (answer.status_code, answer.json()["field"]) == (422, field)
        assert (await put(http, "two")).status_code == 200


async def test_links_do_not_lead_out_of_the_allowed_folder(service: Service) -> None:
    (service.folder / "link").symlink_to(service.folder.parent / "outside")
    async with service.gateway() as http:
        answer = await put(http, "link")
        assert answer.status_code == 422
        assert "a link leads out of the folder" in answer.json()["error"]


async def test_bad_requests_are_refused(service: Service) -> None:
    async with service.gateway(api_key="secret") as http:
        assert (await put(http, "two")).status_code == 401
        headers = {"Authorization": "Bearer secret"}
        for body in ({}, {"path": 1}, {"path": "two", "other": 1}, []):
            answer = await http.put("/v1/adapters/two", json=body, headers=headers)
            assert answer.status_code == 422, body
        missing = await http.put("/v1/adapters/two", json={"path": "no such folder"}, headers=headers)
        assert "this replica has no such folder" in missing.json()["error"]
        assert (await http.get("/v1/adapters", headers=headers)).json()["adapters"][0]["name"] is None


async def test_a_service_without_the_flag_takes_no_adapters() -> None:
    async with client(Gateway(FlexJudge(ScriptedEngine(adapted_judge), SETTINGS).ajudge)) as http:
        answer = await put(http, "two")
        assert (answer.status_code, "--allow-adapter-updates" in answer.json()["error"]) == (422, True)
        listed = (await http.get("/v1/adapters")).json()
        assert listed["allows_updates"] is False
        assert get_scores(await judge(http, "a")) == [1]


async def test_requests_wait_for_the_board_after_a_restart_of_the_gateway(service: Service) -> None:
    async def fail(*_: Any) -> None:
        raise ConnectionError("away")

    async with service.gateway() as http:
        service.handle.keep_adapters = SimpleNamespace(remote=fail)
        answer = await http.post("/v1/judge", json=comparisons("a"))
        assert (answer.status_code, "Retry-After" in answer.headers) == (503, True)
        assert (await http.get("/healthz")).status_code == 200
        service.handle.keep_adapters = SimpleNamespace(remote=service._make_remote("keep_adapters"))
        assert get_scores(await judge(http, "a")) == [1]
        assert START.key == ""


def test_a_service_that_allows_updates_prepares_its_engines() -> None:
    judge_config = JudgeConfig(EngineConfig("smollm2-135m"))
    config = ServiceConfig(judge_config, gateway=GatewayConfig(allow_adapter_updates="/srv/adapters"))
    assert config.judge.engine.max_adapter_rank == 64
    wider = replace(config, judge=JudgeConfig(EngineConfig("smollm2-135m", max_adapter_rank=128)))
    assert wider.judge.engine.max_adapter_rank == 128
    assert ServiceConfig(judge_config, gateway=GatewayConfig()).judge.engine.max_adapter_rank == 0
    args = {"allow_adapter_updates": "/srv/adapters", "max_adapter_rank": 16}
    assert ServiceConfig.from_args(args).judge.engine.max_adapter_rank == 16
    for folder in ("adapters", "/", "//"):
        with pytest.raises(UsageError, match="must be the absolute path of a folder below /"):
            GatewayConfig(allow_adapter_updates=folder)
