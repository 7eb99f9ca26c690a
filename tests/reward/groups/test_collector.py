"""Collection of groups from any number of callers: complete, incomplete, late and cancelled members."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from grading import RecordingJudge, sample, worth
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, Judgment, Media, Message, Status, UsageError
from flex_judge.judges.media.types import Modality
from flex_judge.reward.groups import collector as collector_module
from flex_judge.reward.groups.collector import GroupCollector, reward_samples
from flex_judge.reward.groups.methods import JudgeFunction
from flex_judge.reward.types import METHODS, GroupInfo, Reward, RewardSpec, Sample

SOON = 0.05  # seconds
LONG = 60.0


def spec(reward: str = "win_rate", size: int | None = None, group_timeout_s: float = LONG, **rest: Any) -> RewardSpec:
    return RewardSpec(
        **({"method": "round_robin", "reward": reward, "group_size": size, "group_timeout_s": group_timeout_s} | rest)
    )


@asynccontextmanager
async def open_collector(judge: JudgeFunction, retain_s: float = LONG) -> AsyncIterator[GroupCollector]:
    """Open a collector that is closed at the end; fails after 30 seconds instead of hanging."""
    collector = GroupCollector(judge, retain_s)
    try:
        async with asyncio.timeout(30):
            yield collector
    finally:
        await collector.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def values(rewards: list[Reward]) -> list[float | None]:
    return [reward.value for reward in rewards]


# One call


async def test_judges_one_call_at_once_in_order() -> None:
    rewards = await reward_samples(worth(2, 9, 5), spec(), RecordingJudge())
    assert values(rewards) == [0.0, 1.0, 0.5]
    assert {reward.group for reward in rewards} == {GroupInfo(3, None)}


async def test_a_doubled_prompt_list_is_grouped_by_prompt_and_not_by_position() -> None:
    prompts = ["one?", "two?", "three?"]
    first = [sample(f"worth {3 + i}", prompt) for i, prompt in enumerate(prompts)]
    second = [sample(f"worth {5 - i}", prompt) for i, prompt in enumerate(prompts)]
    judge = RecordingJudge()
    rewards = await reward_samples([*first, *second], spec(size=2), judge)
    assert values(rewards) == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}
    assert len(judge.comparisons) == 2  # the answers to the second prompt are identical


async def test_splits_extra_samples_of_a_prompt_into_groups() -> None:
    rewards = await reward_samples(worth(1, 2, 9, 3, 5), spec(size=2), RecordingJudge())
    assert values(rewards) == [0.0, 1.0, 1.0, 0.0, None]
    assert [r.group for r in rewards] == [GroupInfo(2, 2)] * 4 + [GroupInfo(1, 2)]


async def test_names_separate_groups_of_one_prompt() -> None:
    samples = [replace(s, group=name) for s, name in zip(worth(1, 2, 9, 3), "abab", strict=True)]
    assert values(await reward_samples(samples, spec(), RecordingJudge())) == [0.0, 0.0, 1.0, 1.0]


async def test_prompts_with_different_media_are_different_prompts() -> None:
    def make_sample(picture: bytes, response: str) -> Sample:
        return Sample((Message("user", (Media(Modality.MOLECULE, picture, "m"), "How much?")),), response)

    samples = [
        make_sample(b"CCO", "worth 1"),
        make_sample(b"CCC", "worth 2"),
        make_sample(b"CCO", "worth 3"),
        make_sample(b"CCC", "worth 1"),
    ]
    assert values(await reward_samples(samples, spec(), RecordingJudge())) == [0.0, 1.0, 1.0, 0.0]


async def test_a_reward_that_needs_no_group_is_never_incomplete() -> None:
    rewards = await reward_samples(worth(1, 2), spec("expected", 8, method="pointwise"), RecordingJudge())
    assert [reward.group for reward in rewards] == [GroupInfo(2, None)] * 2
    assert all(reward.group.is_complete for reward in rewards)


async def test_returns_no_rewards_for_no_samples() -> None:
    assert await reward_samples([], spec(), RecordingJudge()) == []
    async with open_collector(RecordingJudge()) as collector:
        assert collector.add([], spec(size=2)) == []


async def test_error_names_a_sample_without_a_baseline() -> None:
    samples = [sample("a", "one?", "b"), sample("a", "two?", "b"), sample("a", "two?")]
    with pytest.raises(UsageError, match=r"samples\[2\].baseline"):
        await reward_samples(samples, spec(method="baseline"), RecordingJudge())


@pytest.mark.parametrize("method", METHODS)
async def test_one_call_gets_the_same_rewards_as_the_collector(method: str) -> None:
    samples = [replace(s, baseline="worth 4") for s in worth(2, 9, 5, 5)]
    group_spec = spec("margin", 4, method=method, normalize="standardize")
    together = await reward_samples(samples, group_spec, RecordingJudge())
    async with open_collector(RecordingJudge()) as collector:
        assert await asyncio.gather(*collector.add(samples, group_spec)) == together


# Several calls


async def test_judges_a_group_of_two_callers_together() -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        one, two = worth(2, 9, 5, 7)[:2], worth(2, 9, 5, 7)[2:]
        first = collector.add([*one, sample("worth 1", "other?")], spec(size=4))
        await asyncio.sleep(0.01)
        assert len(judge.comparisons) == 1  # of the two that are present
        second = collector.add([sample("worth 2", "other?"), *two], spec(size=4))
        rewards = await asyncio.gather(*first[:2], *second[1:])
        assert values(rewards) == [0.0, 1.0, 1 / 3, 2 / 3]
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}
        assert not first[2].done()  # the other prompt still waits for two


async def test_single_samples_from_many_callers_fill_groups_in_turn() -> None:
    async with open_collector(RecordingJudge()) as collector:
        futures = [collector.add([one], spec(size=2))[0] for one in worth(1, 2, 9, 3)]
        assert values(await asyncio.gather(*futures)) == [0.0, 1.0, 1.0, 0.0]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=6, unique=True), st.sets(st.integers(0, 6)))
def test_rewards_do_not_depend_on_the_split_into_calls(scores: list[int], cuts: set[int]) -> None:
    async def judge_in_calls() -> None:
        group_spec, ends = spec(size=len(scores)), sorted({*cuts, len(scores)})
        async with open_collector(RecordingJudge()) as collector:
            calls = [scores[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            rewards = await asyncio.gather(
                *(future for call in calls for future in collector.add(worth(*call), group_spec))
            )
        assert rewards == await reward_samples(worth(*scores), group_spec, RecordingJudge())

    asyncio.run(judge_in_calls())


async def test_samples_with_other_settings_are_another_group() -> None:
    async with open_collector(RecordingJudge()) as collector:
        (by_rate,) = collector.add(worth(1), spec("win_rate", 2))
        (by_rank,) = collector.add(worth(2), spec("rank", 2))
        await asyncio.sleep(0.01)
        assert not by_rate.done()
        assert not by_rank.done()


async def test_identical_completions_are_separate_members() -> None:
    async with open_collector(RecordingJudge()) as collector:
        rewards = await asyncio.gather(
            *collector.add(worth(3, 3), spec(size=3)), *collector.add(worth(7), spec(size=3))
        )
        assert values(rewards) == [0.25, 0.25, 1.0]
        assert rewards[0].group == GroupInfo(3, 3)


async def test_samples_without_a_group_do_not_wait() -> None:
    async with open_collector(RecordingJudge()) as collector:
        (alone,) = collector.add(worth(4), spec("expected", 8, method="pointwise"))
        assert (await alone).value == 4.0
        together = collector.add(worth(4, 6), spec(size=None))
        assert values(await asyncio.gather(*together)) == [0.0, 1.0]


async def test_pointwise_judges_on_arrival_and_only_statistics_wait() -> None:
    judge = RecordingJudge()
    group_spec = spec("rank", 3, method="pointwise")
    async with open_collector(judge) as collector:
        first = collector.add(worth(2, 8), group_spec)
        await wait_until(lambda: len(judge.comparisons) == 2)
        await asyncio.sleep(0.01)
        assert not any(future.done() for future in first)
        rewards = await asyncio.gather(*first, *collector.add(worth(5), group_spec))
        assert values(rewards) == [0.0, 1.0, 0.5]
        assert sorted(judge.texts) == [("worth 2",), ("worth 5",), ("worth 8",)]


async def test_a_new_group_starts_while_a_full_one_is_judged() -> None:
    judge = RecordingJudge(held=["worth 1"])
    async with open_collector(judge) as collector:
        slow = collector.add(worth(1, 2), spec(size=2))
        assert values(await asyncio.gather(*collector.add(worth(3, 4), spec(size=2)))) == [0.0, 1.0]
        assert not any(future.done() for future in slow)
        judge.go.set()
        assert values(await asyncio.gather(*slow)) == [0.0, 1.0]


# Incomplete groups and latecomers


async def test_judges_an_incomplete_group_after_its_timeout() -> None:
    async with open_collector(RecordingJudge()) as collector:
        rewards = await asyncio.gather(*collector.add(worth(1, 2, 3), spec(size=4, group_timeout_s=SOON)))
        assert values(rewards) == [0.0, 0.5, 1.0]
        assert {reward.group for reward in rewards} == {GroupInfo(3, 4)}
        assert not rewards[0].group.is_complete


async def test_timeout_starts_with_the_first_member() -> None:
    async with open_collector(RecordingJudge()) as collector:
        group_spec = spec(size=3, group_timeout_s=4 * SOON)
        collector.add(worth(1), group_spec)
        await asyncio.sleep(3 * SOON)
        (other,) = collector.add([sample("worth 1", "other?")], group_spec)
        (second,) = collector.add(worth(2), group_spec)
        await other
        assert second.done()


async def test_timeout_restarts_if_the_first_member_gives_up() -> None:
    async with open_collector(RecordingJudge()) as collector:
        group_spec = spec(size=2, group_timeout_s=8 * SOON)
        collector.add(worth(1), group_spec)[0].cancel()
        await asyncio.sleep(5 * SOON)
        (first,) = collector.add(worth(2), group_spec)
        await asyncio.sleep(5 * SOON)
        rewards = await asyncio.gather(first, *collector.add(worth(3), group_spec))
        assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}


async def test_a_single_member_has_no_relative_reward() -> None:
    async with open_collector(RecordingJudge()) as collector:
        reward = await collector.add(worth(5), spec(size=2, group_timeout_s=SOON))[0]
        assert (reward.value, reward.status, reward.group) == (None, Status.TIMEOUT, GroupInfo(1, 2))


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "listwise"])
async def test_judges_latecomers_against_present_members_and_marks_them(method: str) -> None:
    group_spec = spec(size=4, group_timeout_s=SOON, method=method)
    async with open_collector(RecordingJudge()) as collector:
        early = await asyncio.gather(*collector.add(worth(2, 8), group_spec))
        late = await asyncio.gather(*collector.add(worth(4, 6), group_spec))
        assert values(early) == [0.0, 1.0]
        assert [reward.group for reward in late] == [GroupInfo(4, 4, late=True)] * 2
        assert values(late) == [1 / 3, 2 / 3]


async def test_ranks_latecomers_of_a_knockout() -> None:
    group_spec = spec("rank", 5, SOON, method="knockout")
    async with open_collector(RecordingJudge()) as collector:
        await asyncio.gather(*collector.add(worth(2, 4, 6), group_spec))
        assert values(await asyncio.gather(*collector.add(worth(9, 1), group_spec))) == [1.0, 0.125]


async def test_normalizes_baseline_latecomers_with_the_others() -> None:
    group_spec = spec("margin", 3, SOON, method="baseline", normalize="center")
    samples = [replace(s, baseline="worth 4") for s in worth(2, 6, 10)]
    async with open_collector(RecordingJudge()) as collector:
        assert values(await asyncio.gather(*collector.add(samples[:2], group_spec))) == [-2.0, 2.0]
        assert values(await asyncio.gather(*collector.add(samples[2:], group_spec))) == [4.0]


async def test_a_new_group_starts_after_latecomers_complete_one() -> None:
    group_spec = spec(size=3, group_timeout_s=SOON)
    async with open_collector(RecordingJudge()) as collector:
        await asyncio.gather(*collector.add(worth(2, 8), group_spec))
        late, *fresh = await asyncio.gather(*collector.add(worth(4, 6, 1, 9), group_spec))
        assert late.group == GroupInfo(3, 3, late=True)
        assert [reward.group for reward in fresh] == [GroupInfo(3, 3)] * 3


async def test_judges_latecomers_one_by_one_without_waiting() -> None:
    group_spec = spec(size=5, group_timeout_s=SOON)
    async with open_collector(RecordingJudge()) as collector:
        await asyncio.gather(*collector.add(worth(2, 8), group_spec))
        infos = [(await collector.add(worth(score), group_spec)[0]).group for score in (4, 6)]
        assert infos == [GroupInfo(3, 5, late=True), GroupInfo(4, 5, late=True)]


async def test_a_member_that_arrives_during_judging_is_a_latecomer() -> None:
    judge = RecordingJudge(held=["worth 2"])
    group_spec = spec(size=4, group_timeout_s=SOON)
    async with open_collector(judge) as collector:
        early = collector.add(worth(2, 8), group_spec)
        await asyncio.sleep(2 * SOON)
        assert len(judge.comparisons) == 1
        late = collector.add(worth(4), group_spec)
        await asyncio.sleep(0.01)
        assert len(judge.comparisons) == 1
        judge.go.set()
        assert [r.group for r in await asyncio.gather(*early, *late)] == [
            GroupInfo(2, 4),
            GroupInfo(2, 4),
            GroupInfo(3, 4, late=True),
        ]


async def test_a_new_group_starts_after_the_retention() -> None:
    group_spec = spec(size=3, group_timeout_s=SOON)
    async with open_collector(RecordingJudge(), retain_s=SOON) as collector:
        await asyncio.gather(*collector.add(worth(2, 8), group_spec))
        await asyncio.sleep(2 * SOON)
        rewards = await asyncio.gather(*collector.add(worth(4, 6, 5), group_spec))
        assert {reward.group for reward in rewards} == {GroupInfo(3, 3)}


async def test_drops_retained_groups_that_use_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MAX_RETAINED_BYTES", 250_000)
    group_spec = spec(size=3, group_timeout_s=0.0)
    async with open_collector(RecordingJudge()) as collector:
        for prompt in ("one?", "two?", "three?"):
            long = [sample(f"worth {i} {'.' * 50_000}", prompt) for i in (1, 2)]
            await asyncio.gather(*collector.add(long, replace(group_spec, method="pointwise", rubric="correctness")))
        infos = [
            (
                await collector.add(
                    [sample("worth 3", prompt)], replace(group_spec, method="pointwise", rubric="correctness")
                )[0]
            ).group
            for prompt in ("one?", "three?")
        ]
        assert infos == [GroupInfo(1, 3), GroupInfo(3, 3, late=True)]


# Failures


@pytest.mark.parametrize("method", METHODS)
async def test_a_failed_member_does_not_affect_the_others(method: str) -> None:
    samples = [replace(s, baseline="worth 4") for s in worth(2, "mumble", 9)]
    async with open_collector(RecordingJudge()) as collector:
        rewards = await asyncio.gather(*collector.add(samples, spec(size=3, method=method)))
    assert (rewards[1].value, rewards[1].status) == (None, Status.UNPARSEABLE)
    if method in ("pointwise", "round_robin", "baseline"):
        assert [rewards[0].value, rewards[2].value] == [0.0, 1.0]
    if method == "knockout":  # another member may have had no other opponent
        assert any(reward.value is not None for reward in rewards)
    assert all((reward.status is Status.OK) == (reward.value is not None) for reward in rewards)


async def test_a_slow_comparison_times_out_alone() -> None:
    for method in ("round_robin", "pointwise"):
        async with open_collector(RecordingJudge(held=["worth 5"])) as collector:
            rewards = await asyncio.gather(*collector.add(worth(2, 5, 9), spec(size=3, method=method), deadline_s=0.5))
        assert values(rewards) == [0.0, None, 1.0]
        assert (rewards[1].status, rewards[1].detail) == (
            Status.TIMEOUT,
            "no verdict before the deadline of the request",
        )


@pytest.mark.parametrize("method", METHODS)
async def test_an_error_fails_all_waiting_callers_and_a_new_group_starts(method: str) -> None:
    broken = True

    async def judge(comparison: Comparison) -> Judgment:
        if broken:
            raise UsageError("the judge takes no pictures")
        return await RecordingJudge()(comparison)

    group_spec = spec("margin", 3, method=method, normalize="center")
    samples = [replace(s, baseline="worth 4") for s in worth(2, 5, 9)]
    async with open_collector(judge) as collector:
        futures = [*collector.add(samples[:1], group_spec), *collector.add(samples[1:], group_spec)]
        errors = await asyncio.gather(*futures, return_exceptions=True)
        assert [str(error) for error in errors] == ["the judge takes no pictures"] * 3
        broken = False
        rewards = await asyncio.gather(*collector.add(samples, group_spec))
        assert {(reward.status, reward.group) for reward in rewards} == {(Status.OK, GroupInfo(3, 3))}


async def test_a_pointwise_error_fails_a_waiting_group_at_once() -> None:
    held = RecordingJudge(held=["worth 2"])

    async def judge(comparison: Comparison) -> Judgment:
        if comparison.responses == ("a picture",):
            raise UsageError("the judge takes no pictures")
        return await held(comparison)

    async with open_collector(judge) as collector:
        for future in collector.add(worth(2, "a picture"), spec("rank", 3, method="pointwise")):
            with pytest.raises(UsageError, match="no pictures"):
                await future
        await wait_until(lambda: held.cancelled == held.held_back)


async def test_rejects_a_whole_call_with_an_invalid_sample() -> None:
    judge = RecordingJudge()
    async with open_collector(judge) as collector:
        with pytest.raises(UsageError, match=r"samples\[1\].baseline"):
            collector.add([sample("a", baseline="b"), sample("c")], spec("expected", method="baseline"))
        await asyncio.sleep(0)
        assert judge.comparisons == []


async def test_a_cancelled_comparison_leaves_no_caller_waiting() -> None:
    async def judge(comparison: Comparison) -> Judgment:
        raise asyncio.CancelledError

    for method in ("pointwise", "round_robin", "circular", "swiss"):
        async with open_collector(judge) as collector:
            futures = collector.add(worth(1, 2), spec(size=2, method=method))
            await asyncio.wait(futures, timeout=5)
            assert all(future.cancelled() for future in futures)


# Callers that give up


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "circular", "swiss", "knockout", "listwise"])
async def test_cancels_work_that_all_callers_gave_up_and_restarts_on_repeat(method: str) -> None:
    judge = RecordingJudge(held=["worth 2", "worth 5"])
    group_spec = spec(size=3, method=method)
    async with open_collector(judge) as collector:
        futures = collector.add(worth(2, 5, 9), group_spec)
        await wait_until(lambda: bool(judge.held_back))
        for future in futures:
            future.cancel()
        await wait_until(lambda: all(comparison in judge.cancelled for comparison in judge.held_back))
        judge.go.set()
        rewards = await asyncio.gather(*collector.add(worth(2, 5, 9), group_spec))
        assert {reward.group for reward in rewards} == {GroupInfo(3, 3)}


async def test_an_abandoned_group_does_not_affect_the_next_one() -> None:
    judge = RecordingJudge(held=["worth 2"])
    async with open_collector(judge) as collector:
        given_up = collector.add(worth(2, 5), spec(size=2))
        await wait_until(lambda: bool(judge.held_back))
        (first,) = collector.add(worth(6), spec(size=2))
        for future in given_up:
            future.cancel()
        await wait_until(lambda: judge.cancelled == judge.held_back)
        rewards = await asyncio.gather(first, *collector.add(worth(7), spec(size=2)))
        assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}


async def test_cancelled_members_stay_as_opponents_while_one_waits() -> None:
    judge = RecordingJudge(held=["worth 2"])
    async with open_collector(judge) as collector:
        low, high = collector.add(worth(2, 9), spec(size=2))
        await wait_until(lambda: len(judge.comparisons) == 1)
        low.cancel()
        await asyncio.sleep(0)
        judge.go.set()
        assert (await high).value == 1.0
        assert judge.cancelled == []


@pytest.mark.parametrize("noticed", [True, False])
async def test_a_cancelled_member_leaves_a_waiting_group(noticed: bool) -> None:
    judge = RecordingJudge(held=["worth 2"])
    group_spec = spec("rank", 2, method="pointwise")
    async with open_collector(judge) as collector:
        (gone,) = collector.add(worth(2), group_spec)
        if noticed:
            await wait_until(lambda: len(judge.comparisons) == 1)
        gone.cancel()
        if noticed:
            await wait_until(lambda: len(judge.cancelled) == 1)
        rewards = await asyncio.gather(*collector.add(worth(5), group_spec), *collector.add(worth(9), group_spec))
        assert values(rewards) == [0.0, 1.0]


async def test_a_cancelled_latecomer_does_not_count() -> None:
    judge = RecordingJudge(held=["worth 4"])
    group_spec = spec(size=3, group_timeout_s=SOON)
    async with open_collector(judge) as collector:
        await asyncio.gather(*collector.add(worth(2, 8), group_spec))
        (gone,) = collector.add(worth(4), group_spec)
        await wait_until(lambda: len(judge.comparisons) == 3)
        gone.cancel()
        await wait_until(lambda: len(judge.cancelled) == 2)
        # Its group was full, so its place is not free again: the next sample starts a new group.
        assert (await collector.add(worth(6), group_spec)[0]).group == GroupInfo(1, 3)


async def test_closing_cancels_all_work_and_rejects_new_samples() -> None:
    judge = RecordingJudge(held=["worth 2", "worth 9"])
    async with open_collector(judge) as collector:
        judged = collector.add(worth(2, 5), spec(size=2))
        waiting = collector.add(worth(9), spec("rank", 2, method="pointwise"))
        await wait_until(lambda: len(judge.comparisons) == 2)
        await collector.close()
        assert all(future.cancelled() for future in (*judged, *waiting))
        assert len(judge.cancelled) == 2
        with pytest.raises(RuntimeError, match="closed"):
            collector.add(worth(1), spec(size=2))


async def test_frees_the_memory_of_finished_groups() -> None:
    judge = RecordingJudge()
    async with open_collector(judge, retain_s=0.0) as collector:
        responses: list[weakref.ref[Media]] = []
        for size in (2, 3):  # a complete and an incomplete group
            media = [Media(Modality.MOLECULE, f"worth {i}".encode(), "m") for i in (1, 2)]
            responses += map(weakref.ref, media)
            samples = [Sample(sample("").prompt, ("worth 3, like ", medium)) for medium in media]
            await asyncio.gather(*collector.add(samples, spec(size=size, group_timeout_s=0.0)))
            del media, samples
        judge.comparisons.clear()
        await asyncio.sleep(0.01)
        gc.collect()
        assert [response() for response in responses] == [None] * 4
        assert len(asyncio.all_tasks()) == 1
