"""Rows that cannot be judged in a trainer's batch, in process and over HTTP: None for them, rewards for the others."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from clips import picture
from PIL import Image
from scripts import score_five
from served import ServedJudge, served

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Media, Message, Status
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UnscoredError
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.server.gateway import GatewayConfig
from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward
from flex_judge.reward.types import RewardSpec, Sample
from flex_judge.reward.verl import compute_score

GOOD, LONG, DEEP = Image.new("RGB", (64, 64)), Image.new("RGB", (5000, 1)), Image.new("F", (64, 64))
COLUMNS = {"image": [GOOD, GOOD, GOOD, LONG]}


def make_judge() -> FlexJudge:
    engine = ScriptedEngine(score_five, profile=PROFILES["flex-vl"])
    return FlexJudge(engine, JudgeSettings(max_think_tokens=64, forced_answer=False))


@pytest.fixture(scope="module")
def service() -> Iterator[ServedJudge]:
    with served(make_judge(), GatewayConfig(max_body_mib=1)) as running:
        yield running


@pytest.fixture(params=["process", "http"])
def judge(request: pytest.FixtureRequest, service: ServedJudge) -> FlexJudge | JudgeClient:
    return make_judge() if request.param == "process" else JudgeClient(service.url, deadline_s=60)


def test_an_impossible_image_costs_its_completion_only(judge: FlexJudge | JudgeClient) -> None:
    columns: dict[str, list[Any]] = {}
    metrics: dict[str, float] = {}
    reward = JudgeReward(judge)
    logs = {"log_metric": metrics.__setitem__, "log_extra": columns.__setitem__}
    prompts = ["Q1", "Q2", "Q3", "Q4"]
    assert reward(prompts, ["a"] * 4, **COLUMNS, **logs) == [5.0, 5.0, 5.0, None]
    assert metrics["judge/status_invalid_input"] == 0.25
    assert columns["judge_status"] == ["ok", "ok", "ok", "invalid_input"]
    assert "5000" in columns["judge_reasoning"][3]
    assert "comparisons[" not in columns["judge_reasoning"][3] + columns["judge_reasoning"][0]
    assert "samples[" not in columns["judge_reasoning"][3]
    assert reward(prompts, ["a"] * 4, image=[GOOD, DEEP, GOOD, "gone.png"], **logs) == [5.0, None, 5.0, None]
    assert metrics["judge/status_invalid_input"] == 0.5


async def test_the_asynchronous_reward_function_does_the_same(judge: FlexJudge | JudgeClient) -> None:
    assert await AsyncJudgeReward(judge)(["q"] * 4, ["a"] * 4, **COLUMNS) == [5.0, 5.0, 5.0, None]


@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss", "knockout", "listwise"])
def test_an_impossible_response_leaves_its_group_intact(judge: FlexJudge | JudgeClient, method: Any) -> None:
    completions = [[{"role": "assistant", "content": [{"type": "image", "image": LONG}]}], "a", "b", "c"]
    reward = JudgeReward(judge, method=method, reward="win_rate")
    assert reward(["q"] * 4, completions) == [None, 0.5, 0.5, 0.5]


def test_a_batch_of_invalid_rows_is_no_outage_and_only_their_streak_ends_the_run(service: ServedJudge) -> None:
    reward = JudgeReward(JudgeClient(service.url, deadline_s=60))
    for _ in range(4):
        assert reward(["q"] * 5, ["a"] * 5, image=[LONG] * 5) == [None] * 5
    with pytest.raises(UnscoredError, match=r"scored nothing in 5 calls in a row.*invalid_input: 5"):
        reward(["q"] * 5, ["a"] * 5, image=[LONG] * 5)
    assert reward(["q"], ["a"], image=[GOOD]) == [5.0]


async def test_verl_gets_the_status(service: ServedJudge) -> None:
    result = await compute_score("data", "a", "42", {"question": "q", "images": [LONG]}, url=service.url)
    assert (result["judge_status"], result["judge_ok"]) == ("invalid_input", 0.0)
    assert math.isnan(float(result["score"]))


def make_large_image() -> Media:
    data = picture(Image.effect_noise((1200, 1200), 80))
    assert len(data) > 1 << 20
    return make_image(data)


def test_a_medium_that_the_service_refuses_costs_its_own_rows(service: ServedJudge) -> None:
    large, broken = make_large_image(), Media(Modality.IMAGE, b"no picture", "broken.png")
    client = JudgeClient(service.url, deadline_s=60)
    prompts = [(Message("user", (medium, "q") if medium else "q"),) for medium in (None, large, broken, None)]
    comparisons = [Comparison(str(i), prompt, ("a",)) for i, prompt in enumerate(prompts)]
    judgments = client.judge_sync(comparisons)
    assert [str(j.status) for j in judgments] == ["ok", "invalid_input", "invalid_input", "ok"]
    assert [j.id for j in judgments] == ["0", "1", "2", "3"]
    assert "larger than the 1 MiB allowed" in judgments[1].detail
    assert "cannot be read as image" in judgments[2].detail
    assert client.judge_sync(comparisons[1:3])[0].status == Status.INVALID_INPUT  # nothing is left to send
    spec = RewardSpec(method="round_robin", reward="win_rate", group_size=3, group_timeout_s=30.0)
    samples = [Sample(prompts[0], response) for response in ("a", (broken,), "b")]
    rewards = client.rewards_sync([*samples, Sample(prompts[1], "a")], spec)
    assert [r.value for r in rewards] == [0.5, None, 0.5, None]
    assert [r.group.size for r in rewards[:3]] == [3] * 3


async def test_judgments_of_a_client_have_no_places_of_its_requests(service: ServedJudge) -> None:
    client = JudgeClient(service.url, deadline_s=60, chunk=1)
    comparisons = [Comparison.of("q", "a", id=str(i), images=[LONG] if i == 2 else []) for i in range(3)]
    judgments = await client.judge([*comparisons, Comparison.of("q", "a", rubric="genral", id="3")])
    assert [str(j.status) for j in judgments] == ["ok", "ok", "invalid_input", "invalid_input"]
    assert judgments[2].detail.startswith("prompt[0].content[0].image: ")
    assert judgments[3].detail.startswith("rubric: rubric 'genral' does not exist")
