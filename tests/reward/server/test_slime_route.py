"""Remote reward model for slime: requests as it sends them, one number as the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from web import HeldJudge, client

from flex_judge.judges import Comparison, Judgment, Status
from flex_judge.judges.types import content_to_text
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.types import RewardSpec

PROMPT = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"


def payload(response: str, label: Any = None) -> dict[str, Any]:
    return {"prompt": PROMPT, "response": response, "label": label}


async def judge_length(comparison: Comparison) -> Judgment:
    """Score each response by its length; a `mumble` has no score."""
    texts = [content_to_text(response) for response in comparison.responses]
    if "mumble" in texts:
        return Judgment.from_failure(comparison.id, Status.UNPARSEABLE, "no verdict")
    scores = tuple(float(len(text)) for text in texts)
    return Judgment(comparison.id, Status.OK, scores, scores, "thought")


async def test_the_answer_is_a_number_or_null() -> None:
    async with client(Gateway(judge_length)) as http:
        answer = await http.post("/rm", json=payload("It is 5.<|im_end|>"))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == 8.0
        assert (await http.post("/rm", json=payload("mumble"))).json() is None


async def test_a_label_may_hold_the_prompt_and_a_rubric(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Comparison] = []

    async def judge(comparison: Comparison) -> Judgment:
        seen.append(comparison)
        return await judge_length(comparison)

    label = {"prompt": "What is 2 + 3?", "rubric": "correctness"}
    async with client(Gateway(judge)) as http:
        for value in (label, json.dumps(label)):
            assert (await http.post("/rm", json=payload("Five.", value))).json() == 5.0
        assert [(c.prompt[0].content, c.rubric) for c in seen] == [("What is 2 + 3?", "correctness")] * 2
        assert (await http.post("/rm", json=payload("Five.", {"imagess": []}))).json() is None
    assert "/rm: labels[0].imagess: unknown field; did you mean 'images'?" in caplog.text


async def test_messages_are_a_prompt() -> None:
    body = payload("Five.") | {"prompt": [{"role": "user", "content": "What is 2 + 3?"}]}
    async with client(Gateway(judge_length)) as http:
        assert (await http.post("/rm", json=body)).json() == 5.0


async def test_samples_of_several_requests_are_compared() -> None:
    config = GatewayConfig(openrlhf=RewardSpec(reward="rank", group_size=2))
    async with client(Gateway(judge_length, config)) as http:
        answers = await asyncio.gather(*(http.post("/rm", json=payload(text)) for text in ("Five.", "It is 5.")))
    assert [answer.json() for answer in answers] == [0.0, 1.0]


async def test_a_slow_judge_gives_null_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.server.routes.SLIME_DEADLINE_S", 0.1)
    async with client(HeldJudge().gateway()) as http:
        assert (await http.post("/rm", json=payload("slow"))).json() is None
