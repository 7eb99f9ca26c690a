"""Remote reward model for OpenRLHF: requests as it sends them, and responses that it can use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from clips import encode_uri, noise, picture
from web import HeldJudge, client, wait_until

from flex_judge.judges import Comparison, Judgment, Media, Status
from flex_judge.judges.types import content_to_text
from flex_judge.reward.integrations.end_of_turn import strip_end_of_turn
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.types import RewardSpec

PROMPT = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"


def payload(*responses: str, label: Any = "", prompt: str = PROMPT) -> dict[str, Any]:
    """Build the request of `SingleTurnAgentExecutor`: decoded prompt and response, the prompt, and the label."""
    count = len(responses)
    return {"query": [prompt + r for r in responses], "prompts": [prompt] * count, "labels": [label] * count}


@pytest.fixture
async def received() -> list[Comparison]:
    return []


@pytest.fixture
async def web(received: list[Comparison]) -> AsyncIterator[httpx.AsyncClient]:
    """Serve a judge that records its comparisons and scores each response by its length."""

    async def judge(comparison: Comparison) -> Judgment:
        received.append(comparison)
        scores = tuple(float(len(content_to_text(response))) for response in comparison.responses)
        return Judgment(comparison.id, Status.OK, scores, scores, "thought")

    async with client(Gateway(judge)) as http:
        yield http


async def test_judges_one_sample_per_request(web: httpx.AsyncClient, received: list[Comparison]) -> None:
    answer = await web.post("/get_reward", json=payload("It is 5.<|im_end|>"))
    assert answer.status_code == 200
    result = answer.json()
    assert result["rewards"] == [8.0]
    assert result["scores"] == [pytest.approx(7 / 9)]  # 8 on a scale from 1 to 10
    assert result["extra_logs"]["judge_ok"] == [1.0]
    assert received[0].responses == ("It is 5.",)
    assert received[0].prompt[0].content == PROMPT


async def test_returns_empty_lists_for_empty_lists(web: httpx.AsyncClient) -> None:
    for body in (payload(), {"query": [], "prompts": []}, {"query": [], "prompts": [], "labels": None}):
        answer = await web.post("/get_reward", json=body)
        assert answer.status_code == 200
        result = answer.json()
        assert result["rewards"] == result["scores"] == []
        assert all(values == [] for values in result["extra_logs"].values())


async def test_lists_have_one_number_per_sample_and_constant_names() -> None:
    async with client(HeldJudge().gateway(GatewayConfig(openrlhf_deadline_s=0.5))) as http:
        result = (await http.post("/get_reward", json=payload("a", "mumble", "slow"))).json()
        names = (await http.post("/get_reward", json=payload())).json()["extra_logs"].keys()
    assert [reward is None for reward in result["rewards"]] == [False, True, True]
    assert [score is None for score in result["scores"]] == [False, True, True]
    assert result["extra_logs"].keys() == names
    assert all(len(values) == 3 for values in result["extra_logs"].values())
    assert all(isinstance(value, float) for values in result["extra_logs"].values() for value in values)
    assert result["extra_logs"]["judge_ok"] == [1, 0, 0]
    assert result["extra_logs"]["judge_unparseable"] == [0, 1, 0]
    assert result["extra_logs"]["judge_timeout"] == [0, 0, 1]


async def test_responds_before_openrlhf_times_out() -> None:
    assert GatewayConfig().openrlhf_deadline_s < 180
    async with client(HeldJudge().gateway(GatewayConfig(openrlhf_deadline_s=0.1))) as http:
        async with asyncio.timeout(1):
            answer = await http.post("/get_reward", json=payload("slow"))
        assert answer.json()["rewards"] == [None]


async def test_collects_single_samples_into_groups() -> None:
    spec = RewardSpec(method="round_robin", reward="win_rate", group_size=4, group_timeout_s=5)
    other = PROMPT.replace("2 + 3", "3 + 4")
    async with client(HeldJudge().gateway(GatewayConfig(openrlhf=spec))) as http:
        sent = [payload(x, prompt=prompt) for x in "abcd" for prompt in (PROMPT, other)]
        answers = await asyncio.gather(*(http.post("/get_reward", json=body) for body in sent))
    bodies = [answer.json() for answer in answers]
    for group in (bodies[::2], bodies[1::2]):
        assert sum(body["rewards"][0] for body in group) == pytest.approx(2)
        assert all(body["extra_logs"]["judge_group_size"] == [4] for body in group)
        assert all(body["extra_logs"]["judge_group_whole"] == [1] for body in group)


async def test_judges_an_incomplete_group_after_its_timeout_and_reports_it() -> None:
    spec = RewardSpec(reward="rank", group_size=3, group_timeout_s=0.1)
    async with client(HeldJudge().gateway(GatewayConfig(openrlhf=spec))) as http:
        answers = await asyncio.gather(*(http.post("/get_reward", json=payload(x)) for x in "ab"))
    for answer in answers:
        assert answer.json()["rewards"][0] is not None
        assert answer.json()["extra_logs"]["judge_group_size"] == [2]
        assert answer.json()["extra_logs"]["judge_group_whole"] == [0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("five<|im_end|>", "five"),
        ("five<|im_end|>\n", "five"),
        ("five\n<|eot_id|>", "five\n"),
        ("five</s></s> </s>", "five"),
        ("five<|im_end|><|endoftext|>", "five"),
        ("five", "five"),
        ("five \n", "five \n"),
        ("<|im_end|>five", "<|im_end|>five"),
        ("<|im_end|>", ""),
        ("", ""),
    ],
)
def test_strips_end_of_turn_tokens(text: str, expected: str) -> None:
    assert strip_end_of_turn(text, GatewayConfig().end_of_turn) == expected


def test_strips_many_end_of_turn_tokens_in_linear_time() -> None:
    assert strip_end_of_turn("<eos> " * 200_000, GatewayConfig().end_of_turn) == ""


async def test_end_of_turn_tokens_are_configurable() -> None:
    received: list[Comparison] = []

    async def judge(comparison: Comparison) -> Judgment:
        received.append(comparison)
        return Judgment(comparison.id, Status.OK, (3.0,), None, "")

    async with client(Gateway(judge, GatewayConfig(end_of_turn=("STOP",)))) as http:
        await http.post("/get_reward", json=payload("five<|im_end|>", "fiveSTOP"))
    assert [comparison.responses[0] for comparison in received] == ["five<|im_end|>", "five"]


@pytest.mark.parametrize("query", ["What is 2 + 3?5", "", PROMPT[1:] + "5", "5" + PROMPT])
async def test_a_query_that_does_not_begin_with_its_prompt_has_no_reward(
    web: httpx.AsyncClient, query: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"query": [PROMPT + "4", query], "prompts": [PROMPT] * 2, "labels": ["", ""]}
    answer = await web.post("/get_reward", json=body)
    assert answer.status_code == 200, answer.text
    assert [reward is None for reward in answer.json()["rewards"]] == [False, True]
    assert answer.json()["extra_logs"]["judge_invalid_input"] == [0.0, 1.0]
    assert "labels[1]: query[1]: does not begin with prompts[1]" in caplog.text


async def test_a_label_can_set_prompt_images_and_rubric(web: httpx.AsyncClient, received: list[Comparison]) -> None:
    data = picture(noise(8, 8))
    label = {
        "prompt": [{"role": "user", "content": [{"type": "image"}, "How many?"]}],
        "images": [encode_uri(data, "image/png")],
        "rubric": "correctness",
        "group": "the first",
        "answer": 5,
    }
    for value in (label, json.dumps(label)):
        answer = await web.post("/get_reward", json=payload("Five.", label=value))
        assert answer.status_code == 200, answer.text
    assert received[0].rubric == "correctness"
    content = received[0].prompt[0].content
    assert isinstance(content[0], Media)
    assert content[0].data == data
    assert content[1] == "How many?"
    assert received[0].responses == received[1].responses == ("Five.",)


async def test_a_label_can_set_the_baseline() -> None:
    received: list[Comparison] = []
    spec = RewardSpec(method="baseline", reward="win_rate")

    async def judge(comparison: Comparison) -> Judgment:
        received.append(comparison)
        return Judgment(comparison.id, Status.OK, (4.0, 3.0), None, "", preferred=0)

    async with client(Gateway(judge, GatewayConfig(openrlhf=spec))) as http:
        answer = await http.post("/get_reward", json=payload("Five.", label={"baseline": "Six."}))
        assert answer.json()["rewards"] == [1.0]
        answer = await http.post("/get_reward", json=payload("Five."))
        assert (answer.json()["rewards"], answer.json()["extra_logs"]["judge_invalid_input"]) == ([None], [1.0])
    assert received[0].responses == ("Five.", "Six.")


@pytest.mark.parametrize(
    "label", [None, "", "5", 5, 0.5, [1], "{x}", "{", '{"a": NaN}', "[1]", '"text"', {}, {"a": {}}]
)
async def test_ignores_labels_without_judge_fields(
    web: httpx.AsyncClient, received: list[Comparison], label: Any
) -> None:
    assert (await web.post("/get_reward", json=payload("Five.", label=label))).status_code == 200
    assert received[0].prompt[0].content == PROMPT


@pytest.mark.parametrize(
    ("label", "field"),
    [
        ({"prompt": 3}, "labels[0].prompt"),
        ({"prompt": []}, "labels[0].prompt"),
        ({"images": "a.png"}, "labels[0].images"),
        ({"images": ["/etc/passwd"]}, "labels[0].images[0]"),
        ({"image": ["x"]}, "labels[0].image[0]"),
        ({"group": 3}, "labels[0].group"),
        ({"rubric": "/etc/passwd"}, "labels[0].rubric"),
        ({"rubric": 3}, "labels[0].rubric"),
        ({"baseline": {"a": 1}}, "labels[0].baseline"),
    ],
)
async def test_an_invalid_label_gives_no_reward_and_the_log_names_its_field(
    web: httpx.AsyncClient, label: dict[str, Any], field: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = payload("Five.", "Six.", label="")
    body["labels"][0] = json.dumps(label)
    answer = (await web.post("/get_reward", json=body)).json()
    assert [reward is None for reward in answer["rewards"]] == [True, False]
    assert [score is None for score in answer["scores"]] == [True, False]
    assert answer["extra_logs"]["judge_invalid_input"] == [1.0, 0.0]
    assert f"/get_reward: {field}" in caplog.text


async def test_missing_media_of_a_label_must_be_uploaded(web: httpx.AsyncClient) -> None:
    label = json.dumps({"images": [{"digest": "0" * 64}]})
    assert (await web.post("/get_reward", json=payload("Five.", label=label))).status_code == 409


async def test_a_picture_that_the_judge_cannot_take_gives_no_reward(caplog: pytest.LogCaptureFixture) -> None:
    label = {"images": [encode_uri(picture(noise(8, 8)), "image/png")]}
    async with client(HeldJudge().gateway()) as http:  # its model takes only text
        answer = (await http.post("/get_reward", json=payload("Five.", label=label))).json()
    assert (answer["rewards"], answer["scores"]) == ([None], [None])
    assert answer["extra_logs"]["judge_invalid_input"] == [1.0]
    assert "labels[0].images[0]: " in caplog.text


async def test_accepts_the_key_in_the_url() -> None:
    async with client(HeldJudge().gateway(GatewayConfig(api_key="key"))) as http:
        assert (await http.post("http://any:key@judge/get_reward", json=payload("a"))).status_code == 200
        assert (await http.post("http://any:no@judge/get_reward", json=payload("a"))).status_code == 401


async def test_cancels_the_work_of_a_disconnected_client() -> None:
    judge = HeldJudge()
    gateway = judge.gateway()
    async with client(gateway) as http:
        sent = asyncio.create_task(http.post("/get_reward", json=payload("slow")))
        await wait_until(lambda: gateway.pending == 1)
        sent.cancel()
        await wait_until(lambda: gateway.pending == 0 and judge.cancelled["slow"] == 1)
