"""Rewards of the turns and steps of trajectories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_service import FakeService, make_client, return_unscored
from scripts import SETTINGS, judge

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Usage
from flex_judge.judges.types import Message, ToolCall, Trajectory, content_to_text
from flex_judge.reward.integrations.local import LocalJudge
from flex_judge.reward.turns import Combination, Granularity, combine_rewards, split_sample
from flex_judge.reward.types import Reward, RewardSpec, Sample

QUESTION = (Message("user", "What is 12 + 30?"),)
CALL = Message("assistant", "I add.", tool_calls=(ToolCall("add", '{"a": 12, "b": 30}'),))
RESULT, PICTURE = Message("tool", "42", name="add"), Message("ipython", "a plot")
ANSWER, DOUBT, REPLY = Message("assistant", "42."), Message("user", "Are you sure?"), Message("assistant", "Yes, sure.")
TRAJECTORY = Trajectory((CALL, RESULT, PICTURE, ANSWER, DOUBT, REPLY))


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


@pytest.mark.parametrize(
    ("granularity", "first"),
    [("turn", Trajectory((CALL,))), ("step", Trajectory((CALL, RESULT, PICTURE)))],
)
def test_each_turn_answers_the_conversation_before_it(granularity: Granularity, first: Trajectory) -> None:
    turns = split_sample(Sample(QUESTION, TRAJECTORY), granularity)
    assert [turn.response for turn in turns] == [first, "42.", "Yes, sure."]
    assert [turn.prompt for turn in turns] == [
        QUESTION,
        (*QUESTION, *TRAJECTORY.messages[:3]),
        (*QUESTION, *TRAJECTORY.messages[:5]),
    ]


def test_a_text_has_one_turn_and_a_completion_without_an_assistant_none() -> None:
    sample = Sample(QUESTION, "42")
    assert split_sample(sample, "turn") == split_sample(sample, "step") == split_sample(sample, "response") == [sample]
    assert split_sample(Sample(QUESTION, Trajectory((RESULT, DOUBT))), "turn") == []
    unreadable = Sample(QUESTION, "", problem="a broken image")
    assert split_sample(unreadable, "step") == [unreadable]


def ok(value: float) -> Reward:
    return Reward(value, Status.OK, score=value, reasoning="I see.", judgments=1, usage=Usage(10, 0, 2), model="m")


@pytest.mark.parametrize(
    ("combination", "value"), [("mean", 4.0), ("last", 9.0), ("discounted", (2 + 0.5 * 1 + 0.25 * 9) / 1.75)]
)
def test_turns_are_combined_to_one_number(combination: Combination, value: float) -> None:
    combined = combine_rewards([ok(2), ok(1), ok(9)], combination, 0.5)
    assert combined.value == combined.score == pytest.approx(value)
    assert combined.status == Status.OK
    assert combined.expected is None
    assert combined.model == "m"
    assert combined.is_whole


def test_tokens_and_reasoning_of_all_turns_are_reported() -> None:
    combined = combine_rewards([ok(2), ok(4)], "mean")
    assert (combined.usage, combined.judgments) == (Usage(20, 0, 4), 2)
    assert combined.reasoning == "[1] I see.\n\n[2] I see."


@pytest.mark.parametrize("combination", ["mean", "discounted"])
def test_an_unscored_turn_leaves_its_completion_unscored(combination: Combination) -> None:
    lost = Reward(None, Status.TIMEOUT, detail="no answer")
    combined = combine_rewards([ok(2), lost, ok(9)], combination)
    assert (combined.value, combined.status, combined.detail) == (None, Status.TIMEOUT, "turn 2 of 3: no answer")
    assert not combined.is_whole
    assert combine_rewards([lost, ok(9)], "last").value == 9
    nothing = combine_rewards([], combination)
    assert (nothing.value, nothing.status) == (None, Status.INVALID_INPUT)
    assert "no assistant message" in nothing.detail


async def test_clients_give_the_rewards_of_each_turn(service: FakeService) -> None:
    samples = [Sample(QUESTION, "four"), Sample(QUESTION, TRAJECTORY), Sample(QUESTION, Trajectory((RESULT,)))]
    client = make_client(service)
    rewards = await client.turn_rewards(samples)
    # The fake service scores texts by their length, and a trajectory by its number of messages.
    assert [[turn.value for turn in turns] for turns in rewards] == [[4], [1, 3, 10], []]
    assert [[turn.value for turn in turns] for turns in client.turn_rewards_sync(samples, granularity="step")] == [
        [4],
        [3, 3, 10],
        [],
    ]
    service.always = return_unscored(Status.TRUNCATED)
    assert [turn.status for turn in client.turn_rewards_sync(samples[:1])[0]] == [Status.TRUNCATED]


def test_a_judge_in_this_process_scores_turns_too() -> None:
    engine = ScriptedEngine(judge)
    (turns,) = LocalJudge(FlexJudge(engine, SETTINGS)).turn_rewards_sync([Sample(QUESTION, TRAJECTORY)], None, "step")
    assert len(turns) == 3
    assert None not in [turn.value for turn in turns]
    prompts = [prompt for prompt, _ in engine.requests]
    assert all(content_to_text(message.content) in prompts[-1] for message in (CALL, RESULT, ANSWER, DOUBT, REPLY))
    assert "Are you sure?" not in prompts[0]


@pytest.mark.parametrize(
    "spec", [RewardSpec(method="round_robin"), RewardSpec(reward="rank"), RewardSpec(normalize="center")]
)
def test_turns_of_different_completions_are_not_compared(service: FakeService, spec: RewardSpec) -> None:
    with pytest.raises(UsageError, match=r"turn.* cannot be compared with each other; use method 'pointwise'"):
        make_client(service).turn_rewards_sync([Sample(QUESTION, "four")], spec)
    assert service.seen == []
