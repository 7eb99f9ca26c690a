"""Members of a group that cannot be judged: they take no part in the matches, and the others keep their rewards."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from grading import grade_answers, sample, worth
from PIL import Image

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Message, Status, UsageError
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.judges.types import content_to_text
from flex_judge.reward.groups.collector import GroupCollector, reward_samples
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

LONG = make_image(Image.new("RGB", (5000, 1)))
RELATIVE = ["round_robin", "circular", "swiss", "knockout", "listwise"]


class VisionJudge:
    """Judge function that reads scores from the answers, takes images, and records the responses that it is given."""

    def __init__(self) -> None:
        settings = JudgeSettings(max_think_tokens=400, temperature=0.0, forced_answer=False)
        self.judge = FlexJudge(ScriptedEngine(grade_answers, profile=PROFILES["flex-vl"]), settings)
        self.texts: list[tuple[str, ...]] = []

    async def __call__(self, comparison: Comparison) -> Judgment:
        self.texts.append(tuple(map(content_to_text, comparison.responses)))
        return await self.judge.ajudge(comparison)


def draw(score: int) -> Sample:
    """Make a sample whose response has a picture that no model takes."""
    return replace(sample(""), response=(LONG, f"worth {score}"))


def make_unreadable(problem: str = "response[0].image: gone.png: cannot be read") -> Sample:
    return replace(sample(""), problem=problem)


async def get_rewards(
    samples: Sequence[Sample], method: str, reward: str = "win_rate", judge: VisionJudge | None = None
) -> list[Reward]:
    spec = RewardSpec(method=method, reward=reward)  # type: ignore[arg-type]
    return await reward_samples(samples, spec, judge or VisionJudge())


def values(rewards: Sequence[Reward]) -> list[float | None]:
    return [reward.value for reward in rewards]


@pytest.mark.parametrize("method", RELATIVE)
@pytest.mark.parametrize("invalid", [draw(9), make_unreadable()], ids=["impossible image", "unreadable response"])
@pytest.mark.parametrize("place", range(5))
async def test_others_keep_the_rewards_that_they_have_without_an_invalid_member(
    method: str, invalid: Sample, place: int
) -> None:
    valid = worth(3, 7, 5, 6)
    alone = await get_rewards(valid, method)
    members = [*valid[:place], invalid, *valid[place:]]
    rewards = await get_rewards(members, method)
    failed = rewards.pop(place)
    assert (failed.value, failed.status, failed.score) == (None, Status.INVALID_INPUT, None)
    assert failed.detail == invalid.problem or "5000" in failed.detail
    assert failed.group == GroupInfo(5, None)
    if method in ("knockout", "circular", "swiss"):  # others meet: the best member still is the first
        assert max(range(4), key=lambda i: rewards[i].value or 0.0) == 1
        assert [reward.status for reward in rewards] == ["ok"] * 4
    else:
        assert values(rewards) == values(alone)
        assert [reward.rank for reward in rewards] == [reward.rank for reward in alone]


@pytest.mark.parametrize("method", [*RELATIVE, "pointwise", "baseline"])
async def test_an_unreadable_response_is_never_sent_to_the_judge(method: str) -> None:
    judge = VisionJudge()
    members = [*worth(3, 7), make_unreadable()]
    if method == "baseline":
        members = [*(replace(member, baseline="worth 5") for member in members[:2]), members[2]]
    rewards = await get_rewards(members, method, "expected", judge)
    assert [(r.value, str(r.status)) for r in rewards] == [(3, "ok"), (7, "ok"), (None, "invalid_input")]
    assert "" not in {text for texts in judge.texts for text in texts}
    assert (rewards[2].judgments, rewards[2].detail) == (0, members[2].problem)


async def test_a_listwise_group_is_judged_again_without_each_invalid_member() -> None:
    judge = VisionJudge()
    rewards = await get_rewards([*worth(3, 7), draw(9), draw(8)], "listwise", "expected", judge)
    assert values(rewards) == [3.0, 7.0, None, None]
    assert sorted(map(len, judge.texts)) == [2, 4]
    assert {(reward.judgments, reward.usage.generated_tokens > 0) for reward in rewards} == {(1, True), (1, False)}


@pytest.mark.parametrize("method", RELATIVE)
async def test_one_valid_member_left_is_a_group_of_one(method: str) -> None:
    (alone,) = await get_rewards(worth(4), method)
    rewards = await get_rewards([*worth(4), draw(9), make_unreadable()], method)
    assert values(rewards) == [alone.value, None, None]
    assert "completions of its prompt" in alone.detail or "completion of its prompt" in alone.detail
    assert rewards[0].detail.startswith(("too few completions of its prompt can be judged: ", "no other completion of"))
    (alone,) = await get_rewards(worth(4), method, "expected")
    assert values(await get_rewards([draw(9), *worth(4)], method, "expected")) == [None, alone.value]


@pytest.mark.parametrize("method", [*RELATIVE, "pointwise"])
async def test_an_impossible_prompt_concerns_all_members(method: str) -> None:
    prompt = (Message("user", (LONG, "q")),)
    rewards = await get_rewards([replace(member, prompt=prompt) for member in worth(3, 7, 5)], method)
    assert values(rewards) == [None] * 3
    assert {str(reward.status) for reward in rewards} == {"invalid_input"}
    assert all(reward.detail.startswith("prompt: ") for reward in rewards)


async def test_an_impossible_baseline_concerns_its_member() -> None:
    members = [sample("worth 3", baseline="worth 4"), sample("worth 5"), sample("worth 9", baseline="worth 1")]
    members[1] = replace(members[1], baseline=(LONG,))
    rewards = await get_rewards(members, "baseline")
    assert values(rewards) == [0.0, None, 1.0]
    assert rewards[1].status == Status.INVALID_INPUT
    assert rewards[1].detail.startswith("baseline: ")


async def test_identical_invalid_members_are_no_tie() -> None:
    rewards = await get_rewards([*worth(3, 4), draw(9), draw(9)], "round_robin")
    assert values(rewards) == [0.0, 1.0, None, None]
    assert {str(r.status) for r in rewards[2:]} == {"invalid_input"}


async def test_normalization_leaves_invalid_members_out() -> None:
    spec = RewardSpec(normalize="center")
    rewards = await reward_samples([*worth(2, 4), draw(9), make_unreadable()], spec, VisionJudge())
    assert values(rewards) == [-1.0, 1.0, None, None]


async def test_the_caller_must_give_baselines_to_readable_samples() -> None:
    with pytest.raises(UsageError, match=r"samples\[1\].baseline: missing"):
        await get_rewards([make_unreadable(), sample("worth 3")], "baseline")


@pytest.mark.parametrize("method", RELATIVE)
async def test_nobody_waits_for_an_invalid_member_and_latecomers_do_not_meet_it(method: str) -> None:
    judge = VisionJudge()
    collector = GroupCollector(judge)
    spec = RewardSpec(method=method, reward="rank", group_size=4, group_timeout_s=30.0)  # type: ignore[arg-type]
    futures = [
        future for member in [*worth(3, 7), make_unreadable(), draw(9)] for future in collector.add([member], spec)
    ]
    rewards = await asyncio.wait_for(asyncio.gather(*futures), 10)
    assert values(rewards) == [0.0, 1.0, None, None]
    assert all(reward.group == GroupInfo(4, 4) for reward in rewards)
    spec = replace(spec, group_timeout_s=0.0)
    early = await asyncio.gather(*collector.add([*worth(3), make_unreadable(), draw(9)], spec))
    assert [str(reward.status) for reward in early[1:]] == ["invalid_input"] * 2
    judge.texts.clear()
    (late,) = await asyncio.gather(*collector.add(worth(7), spec))
    assert (late.value, late.status, late.group.late) == (1.0, Status.OK, True)
    assert {frozenset(texts) for texts in judge.texts} == {frozenset(("worth 3", "worth 7"))}
    await collector.close()
