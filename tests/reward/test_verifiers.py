"""The judge as verifiers calls it: with arguments by parameter name, for rollouts, groups and traces."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from fake_service import FakeService, hang, make_client, return_unscored
from scripts import SETTINGS, fair_judge

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import ServiceTimeoutError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.verifiers import TraceJudge, judge_group_reward, judge_reward

RED = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def make_state(completion: str) -> dict[str, Any]:
    """Make the state of a finished rollout of version 0."""
    return {
        "prompt": [{"role": "user", "content": "What is 12 + 30?"}],
        "completion": [{"role": "assistant", "content": completion}],
        "answer": "42",
        "task": "sums",
        "info": {},
        "error": None,
    }


async def call_like_rubric(function: Any, *states: dict[str, Any]) -> Any:
    """Call a function like verifiers' Rubric: pass only the objects for which it has parameters."""
    group = {f"{name}s": [state.get(name) for state in states] for name in ("prompt", "completion", "answer")}
    group |= {"states": list(states), "tasks": [s["task"] for s in states], "infos": [s["info"] for s in states]}
    single = {name: states[0][name] for name in ("prompt", "completion", "answer", "task", "info")}
    objects = group | single | {"state": states[0], "parser": object()}
    return await function(**{name: objects[name] for name in inspect.signature(function).parameters})


def test_parameters_distinguish_single_and_group_functions(service: FakeService) -> None:
    single, group = judge_reward(service.url), judge_group_reward(service.url, name="compared")
    assert list(inspect.signature(single).parameters) == ["prompt", "completion", "answer", "state", "task", "info"]
    assert list(inspect.signature(group).parameters) == [
        "prompts",
        "completions",
        "answers",
        "states",
        "tasks",
        "infos",
    ]
    assert (single.__name__, group.__name__) == ("flex_judge", "compared")


async def test_scores_a_rollout(service: FakeService) -> None:
    function = judge_reward(make_client(service), rubric="correctness")
    assert await call_like_rubric(function, make_state("It is 42.")) == 9.0
    assert service.seen[0].body["rubric"] == "correctness"


async def test_compares_the_rollouts_of_a_group() -> None:
    judge = FlexJudge(ScriptedEngine(fair_judge), SETTINGS)
    function = judge_group_reward(judge, method="round_robin", reward="win_rate")
    values = await call_like_rubric(function, *(make_state(f"answer {i}") for i in range(4)))
    assert sum(values) == 2
    assert len(set(values)) > 1


async def test_an_unscored_rollout_raises_and_sets_the_error_of_its_state(service: FakeService) -> None:
    service.always = return_unscored(Status.UNPARSEABLE)
    state, other = make_state("It is 42."), make_state("It is 41.")
    with pytest.raises(UnscoredError, match="1 of 1 rollouts have no score; the first: unparseable: not today"):
        await call_like_rubric(judge_reward(make_client(service)), state)
    assert isinstance(state["error"], UnscoredError)  # Rubric catches errors and counts them as 0
    state["error"] = earlier = RuntimeError("the sandbox died")
    with pytest.raises(UnscoredError, match="2 of 2 rollouts"):
        await call_like_rubric(judge_group_reward(make_client(service)), state, other)
    assert state["error"] is earlier
    assert isinstance(other["error"], UnscoredError)
    service.always = hang
    with pytest.raises(ServiceTimeoutError):
        await call_like_rubric(judge_reward(replace(make_client(service), deadline_s=0.2)), other)


async def test_judges_tool_calls_and_images_of_a_rollout(service: FakeService) -> None:
    state = make_state("")
    look = [{"type": "image_url", "image_url": {"url": RED}}, {"type": "text", "text": "What is it?"}]
    call = {"id": "1", "type": "function", "function": {"name": "zoom", "arguments": '{"by": 2}'}}
    state["prompt"] = [{"role": "user", "content": look}]
    state["completion"] = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "zoomed"},
        {"role": "assistant", "content": "Red."},
    ]
    await call_like_rubric(judge_reward(make_client(service)), state)
    (row,) = service.seen[0].body["samples"]
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]
    assert row["response"] == [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "zoomed", "tool_call_id": "1"},
        {"role": "assistant", "content": "Red."},
    ]
    look[0] = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
    with pytest.raises(UnscoredError, match=r"invalid_input: .*image_url: expected a data URI"):
        await call_like_rubric(judge_reward(make_client(service)), state)


@dataclass
class Message:
    """Message of version 1, which is a pydantic model there."""

    role: str
    content: Any

    def model_dump(self) -> dict[str, Any]:
        return {"role": self.role, "content": self.content}


@dataclass
class Task:
    prompt: Any
    system_prompt: str | None = None


@dataclass
class Trace:
    last_reply: str
    transcript: str = "[user]\nWhat is it?\n\n[assistant]\nIt is 42."


async def test_judges_traces(service: FakeService) -> None:
    judge = TraceJudge(make_client(service), rubric="correctness")
    assert await judge.score(Task("What is 12 + 30?", "Be brief."), Trace("It is 42.")) == 9.0
    assert await judge.score_group(Task([Message("user", "Sum?")]), [Trace("4"), Trace("42")]) == [1, 2]
    transcript_judge = TraceJudge(make_client(service), transcript=True)
    assert await transcript_judge.score(Task("Sum?"), Trace("42")) == len(Trace("").transcript)
    prompts = [request.body["samples"][0]["prompt"] for request in service.seen]
    assert prompts[0] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 12 + 30?"},
    ]
    assert prompts[1] == [{"role": "user", "content": "Sum?"}]
    service.always = return_unscored(Status.TIMEOUT)
    with pytest.raises(UnscoredError, match="timeout"):
        await judge.score(Task("Sum?"), Trace("42"))
    with pytest.raises(UsageError, match="the task has no prompt"):
        await judge.score(Task(None), Trace("42"))


def test_rejects_invalid_settings(service: FakeService) -> None:
    with pytest.raises(UsageError, match="method 'baseline' has no answers"):
        judge_reward(service.url, method="baseline")
    with pytest.raises(UsageError, match="reward must be one of"):
        judge_group_reward(service.url, reward="applause")
    with pytest.raises(UsageError, match="url must begin with"):
        TraceJudge("10.0.0.1:8000")


async def test_sends_the_run_name_as_group_name(service: FakeService) -> None:
    reward = judge_reward(service.url, group_size=1, run="mine")
    await reward("Q?", "four", None, {}, None, None)
    assert service.seen[-1].body["samples"][0]["group"] == "mine"
