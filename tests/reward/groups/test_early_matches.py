"""Comparisons that start while members of the group are missing: what starts, what is reused, and what is dropped."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from grading import RecordingJudge, sample, worth
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, Judgment, Status, UsageError
from flex_judge.judges.types import content_to_text
from flex_judge.reward.groups.collector import GroupCollector, reward_samples
from flex_judge.reward.groups.methods import JudgeFunction
from flex_judge.reward.types import GroupInfo, RewardSpec

PLANNED = ["round_robin", "circular", "swiss"]
SOON = 0.05  # seconds


def spec(method: str, size: int = 4, group_timeout_s: float = 60.0, **rest: Any) -> RewardSpec:
    return RewardSpec(
        **({"method": method, "reward": "rank", "group_size": size, "group_timeout_s": group_timeout_s} | rest)
    )


@asynccontextmanager
async def open_collector(judge: JudgeFunction) -> AsyncIterator[GroupCollector]:
    collector = GroupCollector(judge, 60.0)
    try:
        async with asyncio.timeout(30):
            yield collector
    finally:
        await collector.close()


async def settle() -> None:
    """Let all work run that waits for nothing from outside."""
    for _ in range(200):
        await asyncio.sleep(0)


async def prefer_first(comparison: Comparison) -> Judgment:
    """Prefer the first response, whatever it is: a judge with nothing but position bias."""
    return Judgment(comparison.id, Status.OK, (6.0, 5.0), (6.0, 5.0), "", preferred=0)


@pytest.mark.parametrize("method", PLANNED)
async def test_comparisons_start_as_soon_as_two_members_are_present(method: str) -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        futures = collector.add(worth(2), spec(method))
        await settle()
        assert judge.comparisons == []
        futures += collector.add(worth(8), spec(method))
        await settle()
        assert [sorted(texts) for texts in judge.texts] == [["worth 2", "worth 8"]]
        assert not any(future.done() for future in futures)
        futures += collector.add(worth(4, 6), spec(method))
        rewards = await asyncio.gather(*futures)
        assert [reward.value for reward in rewards] == [0.0, 1.0, 1 / 3, 2 / 3]
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}
        assert max(Counter(judge.texts).values()) == 1


@pytest.mark.parametrize("method", ["knockout", "listwise"])
async def test_comparisons_that_depend_on_all_members_wait_for_them(method: str) -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        futures = collector.add(worth(2, 8, 4), spec(method))
        await settle()
        assert judge.comparisons == []
        await asyncio.gather(*futures, *collector.add(worth(6), spec(method)))


@settings(deadline=None, max_examples=20)
@given(st.permutations(list(range(5))), st.sets(st.integers(0, 5)))
def test_rewards_of_a_round_robin_do_not_depend_on_arrival_even_with_position_bias(
    order: list[int], cuts: set[int]
) -> None:
    texts = [f"answer {i}" for i in range(5)]

    async def judge_in_calls() -> None:
        group_spec, ends = spec("round_robin", 5, reward="win_rate"), sorted({*cuts, 5})
        whole = await reward_samples(worth(*texts), group_spec, prefer_first)
        async with open_collector(prefer_first) as collector:
            futures = []
            for a, b in zip([0, *ends], ends, strict=False):
                futures += collector.add(worth(*(texts[i] for i in order[a:b])), group_spec)
                await settle()
            rewards = await asyncio.gather(*futures)
        assert [reward.value for reward in rewards] == [whole[i].value for i in order]

    asyncio.run(judge_in_calls())


@pytest.mark.parametrize("method", PLANNED)
async def test_order_within_a_call_does_not_matter(method: str) -> None:
    pairings = set()
    texts = [f"answer {i}" for i in range(6)]
    for turned in (texts, texts[::-1]):
        async with open_collector(prefer_first) as collector:
            futures = [*collector.add(worth(*turned[:2], *turned[4:]), spec(method, 6))]
            await settle()
            rewards = await asyncio.gather(*futures, *collector.add(worth(*turned[2:4]), spec(method, 6)))
        ordered = [*turned[:2], *turned[4:], *turned[2:4]]
        pairings.add(tuple(sorted((text, reward.rank) for text, reward in zip(ordered, rewards, strict=True))))
    assert len(pairings) == 1


@pytest.mark.parametrize(("method", "count"), [("round_robin", 3), ("circular", 3), ("swiss", 3)])
async def test_a_group_that_stays_incomplete_keeps_its_comparisons(method: str, count: int) -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        rewards = await asyncio.gather(*collector.add(worth(1, 5, 9), spec(method, 4, SOON)))
        assert [reward.value for reward in rewards] == [0.0, 0.5, 1.0]
        assert {reward.group for reward in rewards} == {GroupInfo(3, 4)}
        assert len(judge.comparisons) == count
        (late,) = await asyncio.gather(*collector.add(worth(10), spec(method, 4, SOON)))
        assert (late.value, late.group) == (1.0, GroupInfo(4, 4, late=True))
        assert all("worth 10" in texts for texts in judge.texts[count:])


@pytest.mark.parametrize("method", PLANNED)
@pytest.mark.parametrize("in_progress", [True, False])
async def test_a_member_whose_caller_gave_up_leaves_with_its_comparisons(method: str, in_progress: bool) -> None:
    judge = RecordingJudge(held=["worth 10"] if in_progress else [])
    async with open_collector(judge) as collector:
        futures = collector.add(worth(3), spec(method))
        await settle()
        (gone,) = collector.add(worth(10), spec(method))
        await settle()
        assert len(judge.comparisons) == 1
        gone.cancel()
        await settle()
        assert judge.cancelled == judge.held_back
        futures += collector.add(worth(1, 5, 9), spec(method))
        rewards = await asyncio.gather(*futures)
        assert [reward.value for reward in rewards] == [1 / 3, 0.0, 2 / 3, 1.0]
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}
        # No score or token of the comparison with the member that left counts.
        assert [reward.expected for reward in rewards] == [3.0, 1.0, 5.0, 9.0]
        assert sum(reward.judgments for reward in rewards) == 2 * (len(judge.comparisons) - 1)
        assert min(reward.judgments for reward in rewards) >= 2


@pytest.mark.parametrize("method", PLANNED)
async def test_comparisons_end_when_all_callers_gave_up_before_the_group_is_complete(method: str) -> None:
    judge = RecordingJudge(held=["worth 2"])
    async with open_collector(judge) as collector:
        futures = collector.add(worth(2, 8), spec(method))
        await settle()
        for future in futures:
            future.cancel()
        await settle()
        assert judge.cancelled == judge.held_back == judge.comparisons
        judge.go.set()
        rewards = await asyncio.gather(*collector.add(worth(2, 8, 4, 6), spec(method)))
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}


@pytest.mark.parametrize("method", PLANNED)
async def test_closing_ends_comparisons_of_waiting_groups(method: str) -> None:
    judge = RecordingJudge(held=["worth 2"])
    async with open_collector(judge) as collector:
        futures = collector.add(worth(2, 8), spec(method))
        await settle()
        await collector.close()
        assert all(future.cancelled() for future in futures)
        assert judge.cancelled == judge.held_back == judge.comparisons
        await settle()
        assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize("method", PLANNED)
async def test_an_error_fails_a_waiting_group_at_once(method: str) -> None:
    held = RecordingJudge(held=["worth 2"])

    async def judge(comparison: Comparison) -> Judgment:
        if "a picture" in map(content_to_text, comparison.responses):
            raise UsageError("the judge takes no pictures")
        return await held(comparison)

    async with open_collector(judge) as collector:
        futures = collector.add(worth(2, 8), spec(method, 5))
        await settle()
        futures += collector.add(worth("a picture", 3), spec(method, 5))
        for future in futures:
            with pytest.raises(UsageError, match="no pictures"):
                await future
        assert held.cancelled == held.held_back
        held.go.set()
        rewards = await asyncio.gather(*collector.add(worth(2, 8, 4, 6), spec(method)))
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}


@pytest.mark.parametrize("method", PLANNED)
async def test_a_comparison_that_started_early_ends_at_the_deadline(method: str) -> None:
    cancelled: list[str] = []

    async def judge(comparison: Comparison) -> Judgment:
        if "worth 2" in comparison.responses:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(comparison.id)
                raise
        return await prefer_first(comparison)

    async with open_collector(judge) as collector:
        group_spec = spec(method, 4, SOON)
        futures = collector.add(worth(2), group_spec, deadline_s=60.0)
        await settle()
        futures += collector.add(worth(8, 5), group_spec, deadline_s=4 * SOON)
        rewards = await asyncio.gather(*futures)
        assert (rewards[0].value, rewards[0].status) == (None, Status.TIMEOUT)
        assert rewards[0].detail == "no verdict before the deadline of the request"
        assert sorted(reward.value or 0.0 for reward in rewards[1:]) == [0.0, 1.0]
        assert len(cancelled) == 2


@pytest.mark.parametrize("method", PLANNED)
async def test_a_deadline_that_passed_keeps_the_verdicts_so_far(method: str) -> None:
    async with open_collector(prefer_first) as collector:
        rewards = await asyncio.gather(*collector.add(worth(2, 8), spec(method, 4, 4 * SOON), deadline_s=SOON))
        assert [reward.status for reward in rewards] == [Status.OK, Status.OK]


@pytest.mark.parametrize("method", PLANNED)
async def test_identical_responses_tie_without_a_call(method: str) -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        futures = collector.add(worth(4, 4), spec(method))
        await settle()
        futures += collector.add(worth(4), spec(method))
        await settle()
        rewards = await asyncio.gather(*futures, *collector.add(worth(4), spec(method)))
        assert judge.comparisons == []
        assert {(reward.value, reward.win_rate, reward.margin) for reward in rewards} == {(0.5, 0.5, 0.0)}


@pytest.mark.parametrize("method", PLANNED)
@pytest.mark.parametrize("last", [4, 7])
async def test_identical_responses_are_judged_if_their_score_is_needed(method: str, last: int) -> None:
    judge = RecordingJudge()
    group_spec = spec(method, 3, reward="expected")
    async with open_collector(judge) as collector:
        futures = collector.add(worth(4, 4), group_spec)
        await settle()
        rewards = await asyncio.gather(*futures, *collector.add(worth(last), group_spec))
        assert [reward.value for reward in rewards] == [4.0, 4.0, float(last)]
        if method == "round_robin" and last != 4:
            assert ("worth 4", "worth 4") not in judge.texts


@pytest.mark.parametrize("method", PLANNED)
async def test_an_unreadable_member_is_not_compared(method: str) -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        futures = collector.add([*worth(2), replace(sample(""), problem="no such file")], spec(method))
        await settle()
        assert judge.comparisons == []
        rewards = await asyncio.gather(*futures, *collector.add(worth(8, 5), spec(method)))
        assert [reward.value for reward in rewards] == [0.0, None, 1.0, 0.5]
        assert (rewards[1].status, rewards[1].detail) == (Status.INVALID_INPUT, "no such file")


async def test_a_group_without_a_size_is_judged_at_once() -> None:
    async with open_collector(RecordingJudge()) as collector:
        for method in PLANNED:
            rewards = await asyncio.gather(*collector.add(worth(1, 9), replace(spec(method), group_size=None)))
            assert [reward.value for reward in rewards] == [0.0, 1.0]
