"""Client and gateway together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from scripts import SETTINGS, fair_judge
from served import ServedJudge, served

from flex_judge.judges import Comparison, FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import AccessError, RequestTooLargeError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.server.gateway import GatewayConfig
from flex_judge.reward.trl import JudgeReward
from flex_judge.reward.types import RewardSpec, Sample
from flex_judge.reward.verl import compute_score

QUESTION = "Question?"


def make_judge(script: Any = fair_judge) -> FlexJudge:
    return FlexJudge(ScriptedEngine(script, profile=PROFILES["flex-vl"]), SETTINGS)


def make_client(service: ServedJudge, **settings: Any) -> JudgeClient:
    return JudgeClient(service.url, **({"deadline_s": 30, "retry_s": 0.01} | settings))


def make_sample(response: str, prompt: str = QUESTION) -> Sample:
    return Sample(Comparison.of(prompt, response).prompt, response)


async def test_judgments_over_http_equal_direct_judgments() -> None:
    judge = make_judge()
    comparisons = [Comparison.of(QUESTION, f"a{i}", f"b{i}", id=str(i)) for i in range(5)]
    with served(judge) as service:
        assert await make_client(service).judge(comparisons) == [await judge.ajudge(c) for c in comparisons]
        assert (await make_client(service).health())["status"] == "ok"


def test_judges_a_group_of_four_callers_together() -> None:
    with served(make_judge()) as service:
        reward = JudgeReward(
            make_client(service), method="round_robin", reward="win_rate", group_size=4, group_timeout_s=20
        )
        statistics: dict[str, float] = {}
        with ThreadPoolExecutor(4) as ranks:
            call = lambda i: reward([QUESTION], [f"answer {i}"], log_metric=statistics.__setitem__)[0]  # noqa: E731
            values = list(ranks.map(call, range(4)))
    assert sum(value or 0 for value in values) == 2
    assert statistics["judge/whole"] == 1


async def test_collects_single_samples_of_verl_into_a_group() -> None:
    settings = {"method": "round_robin", "reward": "win_rate", "group_size": 3, "group_timeout_s": 20, "deadline_s": 30}
    with served(make_judge()) as service:
        rows = [("sums", f"answer {i}", "42", {"question": QUESTION}) for i in range(3)]
        results = await asyncio.gather(*(compute_score(*row, url=service.url, **settings) for row in rows))
    assert sum(float(result["score"]) for result in results) == 1.5
    assert {result["judge_whole"] for result in results} == {1}


@pytest.mark.slow  # loads the image processor
def test_uploads_images_again_after_the_service_lost_them() -> None:
    from PIL import Image

    comparisons = [
        Comparison.of("What is it?", "A square.", images=[Image.new("RGB", (56, 56), colour)])
        for colour in ("red", "blue")
    ]
    with served(make_judge()) as service:
        client = make_client(service, deadline_s=300)
        assert {j.status for j in client.judge_sync(comparisons)} == {Status.OK}
        assert [path for method, path in service.requests if method == "PUT"] == [
            f"/v1/media/image/{c.prompt[0].content[0].digest}" for c in comparisons
        ]
        service.stop()
        service.start()
        assert {j.status for j in client.judge_sync(comparisons)} == {Status.OK}
    assert [method for method, _ in service.requests].count("PUT") == 4


def test_client_raises_the_errors_of_the_service() -> None:
    with served(make_judge(), GatewayConfig(api_key="secret", max_items=2)) as service:
        with pytest.raises(AccessError, match="FLEX_JUDGE_API_KEY"):
            make_client(service).rewards_sync([make_sample("a")])
        client = make_client(service, api_key="secret")
        assert client.rewards_sync([make_sample("a")])[0].status == Status.OK
        with pytest.raises(RequestTooLargeError, match="3 are more than the 2 allowed"):
            client.rewards_sync([make_sample("a")] * 3)
        with pytest.raises(UsageError, match="rubric 'mine' does not exist"):
            client.rewards_sync([make_sample("a")], RewardSpec(rubric="mine"))


def test_client_retries_when_the_service_is_overloaded() -> None:
    async def slow(prompt: str, sampling: Sampling) -> str:
        await asyncio.sleep(0.05)
        return fair_judge(prompt, sampling)

    with served(make_judge(slow), GatewayConfig(max_pending=4, max_items=4)) as service:
        client = make_client(service, chunk=2)
        rewards = client.rewards_sync([make_sample("answer", f"Question {i}?") for i in range(16)])
    assert {r.status for r in rewards} == {Status.OK}
    assert len(service.requests) > 8  # some requests were refused and repeated


def test_unfinished_items_time_out_and_others_have_scores() -> None:
    async def stuck(prompt: str, sampling: Sampling) -> str:
        if "stuck" in prompt:
            await asyncio.sleep(60)
        return fair_judge(prompt, sampling)

    with served(make_judge(stuck)) as service:
        rewards = make_client(service, deadline_s=2).rewards_sync([make_sample("answer"), make_sample("stuck")])
    assert [r.status for r in rewards] == [Status.OK, Status.TIMEOUT]
    assert rewards[1].value is None
