"""The judge service on a real local Ray, with scripted engines in the replicas."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scripts import SETTINGS, DeniedWork
from served import free_port

from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.job import Job
from flex_judge.alignment.pipeline.policy_service import PolicyService, PolicyServiceConfig, RemotePolicy
from flex_judge.alignment.pipeline.runner import run_job
from flex_judge.alignment.pipeline.shards import ShardFolder
from flex_judge.alignment.policies import PolicyConfig
from flex_judge.judges import Comparison, EngineConfig, JudgeConfig, Judgment, Message, Status
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError, ClusterError, EngineLostError, UsageError
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.serving.cluster import Cluster, check_address, check_memory, connect
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S
from flex_judge.reward.serving.service import HttpAddress, JudgeService, ServiceConfig

PORT = free_port()


def service_config(script: str, **settings: object) -> ServiceConfig:
    judge = JudgeConfig(EngineConfig(f"scripts:{script}", "scripted"), SETTINGS)
    # Tests end services while judges still work, so they must not wait for the default drain time.
    return ServiceConfig(judge, **{"drain_s": PRIVATE_DRAIN_S, **settings})  # type: ignore[arg-type]


def groups(answers: list[list[str]]) -> list[list[Comparison]]:
    return [
        [Comparison.of(f"Question {i}?", text, rubric="correctness", id=f"{i}/{k}") for k, text in enumerate(texts)]
        for i, texts in enumerate(answers)
    ]


async def judge_all(config: ServiceConfig, work: list[list[Comparison]]) -> list[Judgment]:
    async with JudgeService(config) as service:
        await service.wait_until_ready()
        return [judgment async for judgment in service.stream_judgments(work)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    os.environ["FLEX_JUDGE_TEST_POISON"] = str(tmp_path_factory.mktemp("poison") / "poison")
    from ray import serve

    with connect() as cluster:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})  # one HTTP server for all services of these tests
        yield cluster


@pytest.mark.slow
def test_judges_each_comparison_once_with_one_replica_per_prompt(cluster: Cluster) -> None:
    work = groups(
        [[f"answer {i} {k}" for k in range(4)] for i in range(4)]
    )  # few enough that no prompt is split because of load
    judgments = asyncio.run(judge_all(service_config("slow_judge", name="spread").place_on(cluster), work))
    assert sorted(j.id for j in judgments) == sorted(c.id for group in work for c in group)
    assert all(j.status == Status.OK for j in judgments)
    replicas: dict[str, set[str]] = {}
    for judgment in judgments:
        replicas.setdefault(judgment.id.partition("/")[0], set()).add(judgment.provenance["replica"])
    assert all(len(of_question) == 1 for of_question in replicas.values())
    assert len(set.union(*replicas.values())) == 2


@pytest.mark.slow
def test_another_replica_judges_the_comparisons_of_a_dead_one(cluster: Cluster) -> None:
    Path(os.environ["FLEX_JUDGE_TEST_POISON"]).touch()
    work = groups([["fine", "once", "good"], *([["fine", "good"]] * 6)])
    judgments = asyncio.run(judge_all(service_config("mortal_judge", name="once").place_on(cluster), work))
    assert Counter(j.status for j in judgments) == {Status.OK: 15}
    assert len({j.id for j in judgments}) == 15


@pytest.mark.slow
def test_a_comparison_that_kills_replicas_is_engine_lost(cluster: Cluster) -> None:
    poison = Path(os.environ["FLEX_JUDGE_TEST_POISON"])
    poison.touch()
    try:
        work = groups([["poison"], ["fine"], ["good"]])
        judgments = asyncio.run(judge_all(service_config("mortal_judge", name="poison").place_on(cluster), work))
    finally:
        poison.unlink()
    by_id = {j.id: j for j in judgments}
    assert by_id["0/0"].status == Status.ENGINE_LOST
    assert by_id["0/0"].scores is None
    assert by_id["1/0"].status == by_id["2/0"].status == Status.OK


@pytest.mark.slow
def test_reports_why_a_service_cannot_start(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"no_such_script.*; log: (/.*/broken\.log); logs of Ray: /") as e:
        asyncio.run(judge_all(service_config("no_such_script", name="broken").place_on(cluster), []))
    log = Path(str(e.value).partition("; log: ")[2].partition(";")[0]).read_text()
    assert re.search(r" ERROR replica-\w+ the replica could not start\nTraceback ", log)


@pytest.mark.slow
def test_does_not_touch_an_application_with_the_same_name_or_address(cluster: Cluster) -> None:
    config = service_config("judge", name="taken", gateway=GatewayConfig()).place_on(cluster)
    here, elsewhere = HttpAddress(port=PORT), HttpAddress(port=free_port())

    async def run() -> list[Judgment]:
        async with JudgeService(config, here) as first:
            await first.wait_until_ready()
            with pytest.raises(ClusterError, match="serve delete taken -y"):
                await JudgeService(config, here).__aenter__()
            with pytest.raises(ClusterError, match=r"Prefix / is being used by application .taken"):
                await JudgeService(replace(config, name="second"), here).__aenter__()
            with pytest.raises(ClusterError, match=f"use --host 127.0.0.1 --port {PORT}$"):
                await JudgeService(replace(config, name="third"), elsewhere).__aenter__()
            return [judgment async for judgment in first.stream_judgments(groups([["answer"]]))]

    assert [j.status for j in asyncio.run(run())] == [Status.OK]


@pytest.mark.slow
def test_an_invalid_comparison_fails_alone(cluster: Cluster) -> None:
    wrong = [[Comparison.of("Question?", "answer", rubric="no_such_rubric", id="0")]]
    with pytest.raises(UsageError, match="no_such_rubric"):
        asyncio.run(judge_all(service_config("judge", name="wrong").place_on(cluster), wrong))


@pytest.mark.slow
def test_data_set_runs_raise_the_original_error(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "Why?"}\n')
    job = Job(open_source(str(tmp_path / "p.jsonl")), DeniedWork(), tmp_path / "parts")
    with pytest.raises(AccessError, match="401: no such key"):
        list(run_job(job))
    assert ShardFolder(job.folder).read_reports() == {}


@pytest.mark.slow
def test_policies_retry_prompts_and_give_up_those_that_kill(cluster: Cluster) -> None:
    poison = Path(os.environ["FLEX_JUDGE_TEST_POISON"])
    policy = PolicyConfig("scripts:mortal_policy", "scripted")
    config = PolicyServiceConfig(policy, replicas=2, name="policy", cpus_per_replica=0.5)

    async def scenario() -> None:
        async with PolicyService(config) as service, PolicyService(config, private=True) as again:
            await service.wait_until_ready()
            await again.wait_until_ready()  # removes what a killed run left
            remote = await RemotePolicy.from_config(config)
            assert remote.model_id == "scripts:mortal_policy"
            sampling = Sampling(32, temperature=1.0, seed=0)
            poison.touch()
            (saved,) = await remote.sample([Message("user", "once 1 2")], sampling, [0])
            assert saved.text.startswith("The result is ")
            with pytest.raises(UsageError, match="greedy samples"):
                await remote.sample([Message("user", "1 2")], Sampling(32), [0, 1])
            poison.touch()
            with pytest.raises(EngineLostError, match="the policy's replicas died 3 times"):
                await remote.sample([Message("user", "poison")], sampling, [0])
            poison.unlink()
            assert len(await remote.sample([Message("user", "1 2")], sampling, [0, 1])) == 2

    asyncio.run(scenario())


async def test_rejects_duplicate_ids() -> None:
    service = JudgeService(service_config("judge"))
    with pytest.raises(UsageError, match="'0/0' among them"):
        await anext(service.stream_judgments([*groups([["a"]]), *groups([["b"]])]))


def test_error_names_an_address_without_a_cluster() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ClusterError, match=rf"no Ray cluster answers at {address} .*leave --address out"):
        check_address(address)


@pytest.mark.parametrize("address", ["nonsense", "ray://host:10001", ":6379", "host:port"])
def test_rejects_malformed_addresses(address: str) -> None:
    with pytest.raises(UsageError, match="must be host:port or auto"):
        check_address(address)


def test_low_memory_error_gives_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.cluster.measure_available_memory", lambda: 3 << 30)
    with pytest.raises(UsageError, match=r"needs about 7.0 GiB of memory and 3.0 GiB are free; use fewer --replicas"):
        check_memory(7.0, "a demo")
    check_memory(2.0, "a demo")
