"""Sleep of the real service: HTTP, two replicas on Ray, and the death of one while it sleeps."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from serving import serving, within

from flex_judge.judges import Comparison, Status
from flex_judge.reward.client import JudgeClient

pytestmark = pytest.mark.slow
FLAGS = ("--engine", "scripted", "--model", "scripts:adapted_judge", "--temperature", "0", "--replicas", "2")


def test_replicas_sleep_and_wake_also_after_the_death_of_one_and_of_the_gateway() -> None:
    comparisons = [Comparison.of(f"Question {i}?", "answer", rubric="correctness") for i in range(12)]
    with serving(*FLAGS, "--allow-sleep") as service:
        client = JudgeClient(service.url)
        before = client.judge_sync(comparisons)
        assert asyncio.run(client.sleep(2)) == 2
        assert client.health_sync()["status"] == "asleep"
        service.replicas()[0].kill()
        for _ in within(90, what="a report without the dead replica"):
            if client.health_sync()["replicas"] == 1:
                break
        for gateway in service.processes(":JudgeGateway"):
            gateway.kill()
        assert httpx.post(f"{service.url}/v1/judge", timeout=60, json={"comparisons": []}).status_code == 503
        asyncio.run(client.wake())
        after = client.judge_sync(comparisons)
        assert {judgment.status for judgment in after} == {Status.OK}
        assert [judgment.scores for judgment in after] == [judgment.scores for judgment in before]
        for _ in within(90, what="two running replicas"):
            if client.health_sync()["replicas"] == 2:
                break
        assert len({judgment.provenance["replica"] for judgment in client.judge_sync(comparisons)}) == 2
        assert client.sleep_sync() == 1
        client.wake_sync()
