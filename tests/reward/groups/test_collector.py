"""Groups are gathered from any number of callers, judged whole or with what is there, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from grading import Asked, sample, worth
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, Judgment, Media, Message, Status, UsageError
from flex_judge.judges.media.types import Modality
from flex_judge.reward.groups import collector as gathering
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
async def collector(ask: JudgeFunction, retain_s: float = LONG) -> AsyncIterator[GroupCollector]:
    """A gatherer that is closed at the end, in a test that does not hang."""
    made = GroupCollector(ask, retain_s)
    try:
        async with asyncio.timeout(30):
            yield made
    finally:
        await made.close()


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def values(rewards: list[Reward]) -> list[float | None]:
    return [reward.value for reward in rewards]


# All in one call


async def test_a_call_is_judged_at_once_and_rewarded_in_order() -> None:
    rewards = await reward_samples(worth(2, 9, 5), spec(), Asked())
    assert values(rewards) == [0.0, 1.0, 0.5]
    assert {reward.group for reward in rewards} == {GroupInfo(3, None)}


async def test_a_doubled_prompt_list_is_grouped_by_prompt_and_not_by_position() -> None:
    prompts = ["one?", "two?", "three?"]
    first = [sample(f"worth {3 + i}", prompt) for i, prompt in enumerate(prompts)]
    second = [sample(f"worth {5 - i}", prompt) for i, prompt in enumerate(prompts)]
    ask = Asked()
    rewards = await reward_samples([*first, *second], spec(size=2), ask)
    assert values(rewards) == [0.0, 0.5, 1.0, 1.0, 0.5, 0.0]
    assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}
    assert len(ask.comparisons) == 2  # the answers to the second prompt are equal


async def test_more_than_a_group_of_one_prompt_is_cut_into_groups_in_turn() -> None:
    rewards = await reward_samples(worth(1, 2, 9, 3, 5), spec(size=2), Asked())
    assert values(rewards) == [0.0, 1.0, 1.0, 0.0, None]
    assert [r.group for r in rewards] == [GroupInfo(2, 2)] * 4 + [GroupInfo(1, 2)]


async def test_names_tell_apart_groups_of_one_prompt() -> None:
    samples = [replace(s, group=name) for s, name in zip(worth(1, 2, 9, 3), "abab", strict=True)]
    assert values(await reward_samples(samples, spec(), Asked())) == [0.0, 0.0, 1.0, 1.0]


async def test_prompts_with_other_pictures_are_other_prompts() -> None:
    def about(picture: bytes, response: str) -> Sample:
        return Sample((Message("user", (Media(Modality.MOLECULE, picture, "m"), "How much?")),), response)

    samples = [about(b"CCO", "worth 1"), about(b"CCC", "worth 2"), about(b"CCO", "worth 3"), about(b"CCC", "worth 1")]
    assert values(await reward_samples(samples, spec(), Asked())) == [0.0, 1.0, 1.0, 0.0]


async def test_a_reward_that_needs_no_group_is_never_incomplete() -> None:
    rewards = await reward_samples(worth(1, 2), spec("expected", 8, method="pointwise"), Asked())
    assert [reward.group for reward in rewards] == [GroupInfo(2, None)] * 2
    assert all(reward.group.is_complete for reward in rewards)


async def test_no_samples_have_no_rewards() -> None:
    assert await reward_samples([], spec(), Asked()) == []
    async with collector(Asked()) as gathered:
        assert gathered.add([], spec(size=2)) == []


async def test_a_sample_without_its_baseline_is_named_by_its_place_in_the_call() -> None:
    samples = [sample("a", "one?", "b"), sample("a", "two?", "b"), sample("a", "two?")]
    with pytest.raises(UsageError, match=r"samples\[2\].baseline"):
        await reward_samples(samples, spec(method="baseline"), Asked())


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_judged_together_gets_what_the_gatherer_gives(method: str) -> None:
    samples = [replace(s, baseline="worth 4") for s in worth(2, 9, 5, 5)]
    asked = spec("margin", 4, method=method, normalize="standardize")
    together = await reward_samples(samples, asked, Asked())
    async with collector(Asked()) as gathered:
        assert await asyncio.gather(*gathered.add(samples, asked)) == together


# Across calls


async def test_a_group_that_spans_two_callers_is_judged_whole() -> None:
    ask = Asked()
    async with collector(ask) as gathered:
        one, two = worth(2, 9, 5, 7)[:2], worth(2, 9, 5, 7)[2:]
        first = gathered.add([*one, sample("worth 1", "other?")], spec(size=4))
        await asyncio.sleep(0.01)
        assert ask.comparisons == []
        second = gathered.add([sample("worth 2", "other?"), *two], spec(size=4))
        rewards = await asyncio.gather(*first[:2], *second[1:])
        assert values(rewards) == [0.0, 1.0, 1 / 3, 2 / 3]
        assert {reward.group for reward in rewards} == {GroupInfo(4, 4)}
        assert not first[2].done()  # the other prompt still waits for two


async def test_single_samples_from_many_callers_fill_groups_in_turn() -> None:
    async with collector(Asked()) as gathered:
        futures = [gathered.add([one], spec(size=2))[0] for one in worth(1, 2, 9, 3)]
        assert values(await asyncio.gather(*futures)) == [0.0, 1.0, 1.0, 0.0]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=6, unique=True), st.sets(st.integers(0, 6)))
def test_it_does_not_matter_in_which_calls_the_members_come(scores: list[int], cuts: set[int]) -> None:
    async def rewarded() -> None:
        asked, ends = spec(size=len(scores)), sorted({*cuts, len(scores)})
        async with collector(Asked()) as gathered:
            calls = [scores[a:b] for a, b in zip([0, *ends], ends, strict=False)]
            rewards = await asyncio.gather(*(future for call in calls for future in gathered.add(worth(*call), asked)))
        assert rewards == await reward_samples(worth(*scores), asked, Asked())

    asyncio.run(rewarded())


async def test_samples_that_are_judged_otherwise_are_another_group() -> None:
    async with collector(Asked()) as gathered:
        (by_rate,) = gathered.add(worth(1), spec("win_rate", 2))
        (by_rank,) = gathered.add(worth(2), spec("rank", 2))
        await asyncio.sleep(0.01)
        assert not by_rate.done()
        assert not by_rank.done()


async def test_equal_completions_are_members_of_their_own() -> None:
    async with collector(Asked()) as gathered:
        rewards = await asyncio.gather(*gathered.add(worth(3, 3), spec(size=3)), *gathered.add(worth(7), spec(size=3)))
        assert values(rewards) == [0.25, 0.25, 1.0]
        assert rewards[0].group == GroupInfo(3, 3)


async def test_what_needs_no_group_does_not_wait() -> None:
    async with collector(Asked()) as gathered:
        (alone,) = gathered.add(worth(4), spec("expected", 8, method="pointwise"))
        assert (await alone).value == 4.0
        together = gathered.add(worth(4, 6), spec(size=None))
        assert values(await asyncio.gather(*together)) == [0.0, 1.0]


async def test_pointwise_verdicts_are_asked_for_on_arrival_and_only_the_figures_wait() -> None:
    ask = Asked()
    asked = spec("rank", 3, method="pointwise")
    async with collector(ask) as gathered:
        first = gathered.add(worth(2, 8), asked)
        await until(lambda: len(ask.comparisons) == 2)
        await asyncio.sleep(0.01)
        assert not any(future.done() for future in first)
        rewards = await asyncio.gather(*first, *gathered.add(worth(5), asked))
        assert values(rewards) == [0.0, 1.0, 0.5]
        assert sorted(ask.texts) == [("worth 2",), ("worth 5",), ("worth 8",)]


async def test_after_a_full_group_a_new_one_begins_even_while_it_is_judged() -> None:
    ask = Asked(held=["worth 1"])
    async with collector(ask) as gathered:
        slow = gathered.add(worth(1, 2), spec(size=2))
        assert values(await asyncio.gather(*gathered.add(worth(3, 4), spec(size=2)))) == [0.0, 1.0]
        assert not any(future.done() for future in slow)
        ask.go.set()
        assert values(await asyncio.gather(*slow)) == [0.0, 1.0]


# Incomplete groups and latecomers


async def test_an_incomplete_group_is_judged_with_what_is_there_and_says_so() -> None:
    async with collector(Asked()) as gathered:
        rewards = await asyncio.gather(*gathered.add(worth(1, 2, 3), spec(size=4, group_timeout_s=SOON)))
        assert values(rewards) == [0.0, 0.5, 1.0]
        assert {reward.group for reward in rewards} == {GroupInfo(3, 4)}
        assert not rewards[0].group.is_complete


async def test_time_runs_from_the_first_member_on() -> None:
    async with collector(Asked()) as gathered:
        asked = spec(size=3, group_timeout_s=4 * SOON)
        gathered.add(worth(1), asked)
        await asyncio.sleep(3 * SOON)
        (other,) = gathered.add([sample("worth 1", "other?")], asked)
        (second,) = gathered.add(worth(2), asked)
        await other
        assert second.done()


async def test_time_runs_anew_where_the_first_gave_up() -> None:
    async with collector(Asked()) as gathered:
        asked = spec(size=2, group_timeout_s=8 * SOON)
        gathered.add(worth(1), asked)[0].cancel()
        await asyncio.sleep(5 * SOON)
        (first,) = gathered.add(worth(2), asked)
        await asyncio.sleep(5 * SOON)
        rewards = await asyncio.gather(first, *gathered.add(worth(3), asked))
        assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}


async def test_one_that_nobody_joins_has_no_relative_reward() -> None:
    async with collector(Asked()) as gathered:
        reward = await gathered.add(worth(5), spec(size=2, group_timeout_s=SOON))[0]
        assert (reward.value, reward.status, reward.group) == (None, Status.TIMEOUT, GroupInfo(1, 2))


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "listwise"])
async def test_latecomers_are_judged_against_what_is_there_and_marked(method: str) -> None:
    asked = spec(size=4, group_timeout_s=SOON, method=method)
    async with collector(Asked()) as gathered:
        early = await asyncio.gather(*gathered.add(worth(2, 8), asked))
        late = await asyncio.gather(*gathered.add(worth(4, 6), asked))
        assert values(early) == [0.0, 1.0]
        assert [reward.group for reward in late] == [GroupInfo(4, 4, late=True)] * 2
        assert values(late) == [1 / 3, 2 / 3]


async def test_latecomers_of_a_knockout_find_their_place_in_it() -> None:
    asked = spec("rank", 5, SOON, method="knockout")
    async with collector(Asked()) as gathered:
        await asyncio.gather(*gathered.add(worth(2, 4, 6), asked))
        assert values(await asyncio.gather(*gathered.add(worth(9, 1), asked))) == [1.0, 0.125]


async def test_latecomers_with_a_baseline_are_normalised_with_the_others() -> None:
    asked = spec("margin", 3, SOON, method="baseline", normalize="center")
    samples = [replace(s, baseline="worth 4") for s in worth(2, 6, 10)]
    async with collector(Asked()) as gathered:
        assert values(await asyncio.gather(*gathered.add(samples[:2], asked))) == [-2.0, 2.0]
        assert values(await asyncio.gather(*gathered.add(samples[2:], asked))) == [4.0]


async def test_latecomers_complete_a_group_and_the_next_one_begins_a_new_one() -> None:
    asked = spec(size=3, group_timeout_s=SOON)
    async with collector(Asked()) as gathered:
        await asyncio.gather(*gathered.add(worth(2, 8), asked))
        late, *fresh = await asyncio.gather(*gathered.add(worth(4, 6, 1, 9), asked))
        assert late.group == GroupInfo(3, 3, late=True)
        assert [reward.group for reward in fresh] == [GroupInfo(3, 3)] * 3


async def test_one_latecomer_after_the_other_is_judged_without_waiting_for_the_rest() -> None:
    asked = spec(size=5, group_timeout_s=SOON)
    async with collector(Asked()) as gathered:
        await asyncio.gather(*gathered.add(worth(2, 8), asked))
        notes = [(await gathered.add(worth(score), asked)[0]).group for score in (4, 6)]
        assert notes == [GroupInfo(3, 5, late=True), GroupInfo(4, 5, late=True)]


async def test_one_who_comes_while_the_group_is_judged_waits_for_that_and_is_late() -> None:
    ask = Asked(held=["worth 2"])
    asked = spec(size=4, group_timeout_s=SOON)
    async with collector(ask) as gathered:
        early = gathered.add(worth(2, 8), asked)
        await until(lambda: len(ask.comparisons) == 1)
        late = gathered.add(worth(4), asked)
        await asyncio.sleep(0.01)
        assert len(ask.comparisons) == 1
        ask.go.set()
        assert [r.group for r in await asyncio.gather(*early, *late)] == [
            GroupInfo(2, 4),
            GroupInfo(2, 4),
            GroupInfo(3, 4, late=True),
        ]


async def test_after_a_while_nobody_is_late_any_more() -> None:
    asked = spec(size=3, group_timeout_s=SOON)
    async with collector(Asked(), retain_s=SOON) as gathered:
        await asyncio.gather(*gathered.add(worth(2, 8), asked))
        await asyncio.sleep(2 * SOON)
        rewards = await asyncio.gather(*gathered.add(worth(4, 6, 5), asked))
        assert {reward.group for reward in rewards} == {GroupInfo(3, 3)}


async def test_incomplete_groups_are_forgotten_early_where_they_hold_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MAX_RETAINED_BYTES", 250_000)
    asked = spec(size=3, group_timeout_s=0.0)
    async with collector(Asked()) as gathered:
        for prompt in ("one?", "two?", "three?"):
            long = [sample(f"worth {i} {'.' * 50_000}", prompt) for i in (1, 2)]
            await asyncio.gather(*gathered.add(long, replace(asked, method="pointwise", rubric="correctness")))
        notes = [
            (
                await gathered.add(
                    [sample("worth 3", prompt)], replace(asked, method="pointwise", rubric="correctness")
                )[0]
            ).group
            for prompt in ("one?", "three?")
        ]
        assert notes == [GroupInfo(1, 3), GroupInfo(3, 3, late=True)]


# Failures


@pytest.mark.parametrize("method", METHODS)
async def test_a_failing_member_is_told_so_and_the_others_are_rewarded_where_they_can_be(method: str) -> None:
    samples = [replace(s, baseline="worth 4") for s in worth(2, "mumble", 9)]
    async with collector(Asked()) as gathered:
        rewards = await asyncio.gather(*gathered.add(samples, spec(size=3, method=method)))
    assert (rewards[1].value, rewards[1].status) == (None, Status.UNPARSEABLE)
    if method in ("pointwise", "round_robin", "baseline"):
        assert [rewards[0].value, rewards[2].value] == [0.0, 1.0]
    if method == "knockout":  # one of the others may have met nobody else
        assert any(reward.value is not None for reward in rewards)
    assert all((reward.status is Status.OK) == (reward.value is not None) for reward in rewards)


async def test_at_the_deadline_one_slow_comparison_costs_the_others_nothing() -> None:
    for method in ("round_robin", "pointwise"):
        async with collector(Asked(held=["worth 5"])) as gathered:
            rewards = await asyncio.gather(*gathered.add(worth(2, 5, 9), spec(size=3, method=method), deadline_s=0.5))
        assert values(rewards) == [0.0, None, 1.0]
        assert (rewards[1].status, rewards[1].detail) == (
            Status.TIMEOUT,
            "no verdict before the deadline of the request",
        )


@pytest.mark.parametrize("method", METHODS)
async def test_an_error_reaches_everybody_who_waits_and_the_next_group_is_a_new_one(method: str) -> None:
    broken = True

    async def ask(comparison: Comparison) -> Judgment:
        if broken:
            raise UsageError("the judge takes no pictures")
        return await Asked()(comparison)

    asked = spec("margin", 3, method=method, normalize="center")
    samples = [replace(s, baseline="worth 4") for s in worth(2, 5, 9)]
    async with collector(ask) as gathered:
        futures = [*gathered.add(samples[:1], asked), *gathered.add(samples[1:], asked)]
        errors = await asyncio.gather(*futures, return_exceptions=True)
        assert [str(error) for error in errors] == ["the judge takes no pictures"] * 3
        broken = False
        rewards = await asyncio.gather(*gathered.add(samples, asked))
        assert {(reward.status, reward.group) for reward in rewards} == {(Status.OK, GroupInfo(3, 3))}


async def test_callers_of_a_gathering_group_hear_of_a_pointwise_error_at_once() -> None:
    held = Asked(held=["worth 2"])

    async def ask(comparison: Comparison) -> Judgment:
        if comparison.responses == ("a picture",):
            raise UsageError("the judge takes no pictures")
        return await held(comparison)

    async with collector(ask) as gathered:
        for future in gathered.add(worth(2, "a picture"), spec("rank", 3, method="pointwise")):
            with pytest.raises(UsageError, match="no pictures"):
                await future
        await until(lambda: held.cancelled == held.held_back)


async def test_a_call_with_a_sample_that_cannot_be_judged_is_refused_whole() -> None:
    ask = Asked()
    async with collector(ask) as gathered:
        with pytest.raises(UsageError, match=r"samples\[1\].baseline"):
            gathered.add([sample("a", baseline="b"), sample("c")], spec("expected", method="baseline"))
        await asyncio.sleep(0)
        assert ask.comparisons == []


async def test_an_engine_that_drops_a_request_leaves_nobody_waiting() -> None:
    async def ask(comparison: Comparison) -> Judgment:
        raise asyncio.CancelledError

    for method in ("pointwise", "round_robin"):
        async with collector(ask) as gathered:
            futures = gathered.add(worth(1, 2), spec(size=2, method=method))
            await asyncio.wait(futures, timeout=5)
            assert all(future.cancelled() for future in futures)


# Callers who give up


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "knockout", "listwise"])
async def test_when_everybody_gave_up_the_work_is_cancelled_and_a_repeat_begins_anew(method: str) -> None:
    ask = Asked(held=["worth 2", "worth 5"])
    asked = spec(size=3, method=method)
    async with collector(ask) as gathered:
        futures = gathered.add(worth(2, 5, 9), asked)
        await until(lambda: bool(ask.held_back))
        for future in futures:
            future.cancel()
        await until(lambda: all(comparison in ask.cancelled for comparison in ask.held_back))
        ask.go.set()
        rewards = await asyncio.gather(*gathered.add(worth(2, 5, 9), asked))
        assert {reward.group for reward in rewards} == {GroupInfo(3, 3)}


async def test_a_group_that_everybody_gave_up_leaves_the_next_one_of_its_prompt_alone() -> None:
    ask = Asked(held=["worth 2"])
    async with collector(ask) as gathered:
        given_up = gathered.add(worth(2, 5), spec(size=2))
        await until(lambda: bool(ask.held_back))
        (first,) = gathered.add(worth(6), spec(size=2))
        for future in given_up:
            future.cancel()
        await until(lambda: ask.cancelled == ask.held_back)
        rewards = await asyncio.gather(first, *gathered.add(worth(7), spec(size=2)))
        assert {reward.group for reward in rewards} == {GroupInfo(2, 2)}


async def test_while_one_still_waits_the_group_is_judged_with_those_who_gave_up() -> None:
    ask = Asked(held=["worth 2"])
    async with collector(ask) as gathered:
        low, high = gathered.add(worth(2, 9), spec(size=2))
        await until(lambda: len(ask.comparisons) == 1)
        low.cancel()
        await asyncio.sleep(0)
        ask.go.set()
        assert (await high).value == 1.0
        assert ask.cancelled == []


@pytest.mark.parametrize("noticed", [True, False])
async def test_one_who_gives_up_while_the_group_gathers_leaves_its_place_to_another(noticed: bool) -> None:
    ask = Asked(held=["worth 2"])
    asked = spec("rank", 2, method="pointwise")
    async with collector(ask) as gathered:
        (gone,) = gathered.add(worth(2), asked)
        if noticed:
            await until(lambda: len(ask.comparisons) == 1)
        gone.cancel()
        if noticed:
            await until(lambda: len(ask.cancelled) == 1)
        rewards = await asyncio.gather(*gathered.add(worth(5), asked), *gathered.add(worth(9), asked))
        assert values(rewards) == [0.0, 1.0]


async def test_a_latecomer_who_gives_up_does_not_count() -> None:
    ask = Asked(held=["worth 4"])
    asked = spec(size=3, group_timeout_s=SOON)
    async with collector(ask) as gathered:
        await asyncio.gather(*gathered.add(worth(2, 8), asked))
        (gone,) = gathered.add(worth(4), asked)
        await until(lambda: len(ask.comparisons) == 3)
        gone.cancel()
        await until(lambda: len(ask.cancelled) == 2)
        # The place it took is not free again: its group was full. What comes next begins a new one.
        assert (await gathered.add(worth(6), asked)[0]).group == GroupInfo(1, 3)


async def test_closing_cancels_everything_and_takes_nothing_more() -> None:
    ask = Asked(held=["worth 2", "worth 9"])
    async with collector(ask) as gathered:
        judged = gathered.add(worth(2, 5), spec(size=2))
        waiting = gathered.add(worth(9), spec("rank", 2, method="pointwise"))
        await until(lambda: len(ask.comparisons) == 2)
        await gathered.close()
        assert all(future.cancelled() for future in (*judged, *waiting))
        assert len(ask.cancelled) == 2
        with pytest.raises(RuntimeError, match="closed"):
            gathered.add(worth(1), spec(size=2))


async def test_nothing_is_left_of_groups_that_are_done() -> None:
    ask = Asked()
    async with collector(ask, retain_s=0.0) as gathered:
        responses: list[weakref.ref[Media]] = []
        for size in (2, 3):  # a complete group, and one that is not
            media = [Media(Modality.MOLECULE, f"worth {i}".encode(), "m") for i in (1, 2)]
            responses += map(weakref.ref, media)
            samples = [Sample(sample("").prompt, ("worth 3, like ", medium)) for medium in media]
            await asyncio.gather(*gathered.add(samples, spec(size=size, group_timeout_s=0.0)))
            del media, samples
        ask.comparisons.clear()
        await asyncio.sleep(0.01)
        gc.collect()
        assert [response() for response in responses] == [None] * 4
        assert len(asyncio.all_tasks()) == 1
