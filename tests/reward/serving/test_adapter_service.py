"""Replacement of the judge's adapter in the real service: HTTP, two replicas on Ray, and their deaths."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serving import Serving, serving, within

from flex_judge.judges import Comparison, Judgment, Status
from flex_judge.judges.errors import AdapterError
from flex_judge.reward.client import JudgeClient

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    for name, settings in {
        "two": {"score": 2},
        "three": {"score": 3},
        "damaged": {"score": 4, "fail_once": True},
    }.items():
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text(json.dumps(settings))
        (folder / name / "adapter_model.safetensors").write_text("")
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Serving]:
    flags = ("--engine", "scripted", "--model", "scripts:adapted_judge", "--temperature", "0", "--replicas", "2")
    with serving(*flags, "--allow-adapter-updates", str(folder), FLEX_JUDGE_TEST_THINK="0.5") as running:
        yield running


def judge_many(client: JudgeClient, count: int = 24) -> list[Judgment]:
    comparisons = [Comparison.of(f"Question {i}?", "answer", rubric="correctness", id=str(i)) for i in range(count)]
    judgments = client.judge_sync(comparisons)
    assert {judgment.status for judgment in judgments} == {Status.OK}
    return judgments


def get_scores(judgments: list[Judgment]) -> set[float]:
    return {(judgment.scores or (0.0,))[0] for judgment in judgments}


def get_replicas(judgments: list[Judgment]) -> set[str]:
    return {judgment.provenance["replica"] for judgment in judgments}


def wait_for_two_replicas(client: JudgeClient, url: str) -> None:
    for _ in within(90, what="two running replicas"):
        report = httpx.get(f"{url}/healthz").json()
        if report.get("replicas") == 2:
            return


def test_both_replicas_switch_while_they_judge(service: Serving) -> None:
    client = JudgeClient(service.url)
    running: list[Judgment] = []
    thread = threading.Thread(target=lambda: running.extend(judge_many(client)))
    thread.start()
    for _ in within(20, what="comparisons in progress"):
        if httpx.get(f"{service.url}/healthz").json()["pending"]:
            break
    card = asyncio.run(client.load_adapter("tuned", "two"))
    after = judge_many(client)
    thread.join()
    assert get_scores(running) == {1}
    assert get_scores(after) == {2}
    assert len(get_replicas(after)) == 2
    assert {judgment.model.rpartition("+")[2] for judgment in after} == {f"tuned@{card['fingerprint']}"}
    assert client.models_sync() == [card["model"]]
    assert client.health_sync()["model"] == card["model"]
    assert client.adapters_sync() == [card]


def test_a_replica_that_cannot_load_an_adapter_leaves_all_with_the_earlier_one(service: Serving) -> None:
    client = JudgeClient(service.url)
    before = client.load_adapter_sync("tuned", "two")
    with pytest.raises(
        AdapterError, match=r"1 of 2 replicas could not load .* keep the adapter tuned@.* out of memory"
    ):
        client.load_adapter_sync("damaged", "damaged")
    assert client.adapters_sync() == [before]
    assert get_scores(judge_many(client)) == {2}


def test_replaced_replicas_and_a_replaced_gateway_go_on_with_the_adapter(service: Serving) -> None:
    client = JudgeClient(service.url)
    card = client.load_adapter_sync("third", "three")
    old = get_replicas(judge_many(client))
    for replica in service.replicas():
        replica.kill()
    assert get_scores(judge_many(client)) == {3}
    wait_for_two_replicas(client, service.url)
    later = judge_many(client)
    assert get_scores(later) == {3}
    assert not get_replicas(later) & old
    for gateway in service.processes(":JudgeGateway"):
        gateway.kill()
    assert get_scores(judge_many(client)) == {3}
    assert client.adapters_sync() == [card]
