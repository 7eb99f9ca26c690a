"""Methods of judging a prompt's completions: pairings, positions, and number of comparisons."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import combinations, permutations
from random import Random

import pytest
from grading import RecordingJudge, sample, worth
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Comparison, Judgment, Media, Status, UsageError
from flex_judge.judges.media.types import Modality
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.methods import METHOD_FUNCTIONS, judge_group
from flex_judge.reward.groups.rewards import build_rewards
from flex_judge.reward.types import METHODS, GroupInfo, Reward, RewardSpec, Sample


def spec(method: str, reward: str = "win_rate", **rest: object) -> RewardSpec:
    return RewardSpec(method=method, reward=reward, **rest)  # type: ignore[arg-type]


async def judge_and_reward(
    samples: list[Sample], group_spec: RewardSpec, judge: RecordingJudge | None = None
) -> list[Reward]:
    matches = await judge_group(samples, group_spec, judge or RecordingJudge())
    return build_rewards(matches, group_spec, GroupInfo(len(samples), None))


def values(rewards: list[Reward]) -> list[float | None]:
    return [reward.value for reward in rewards]


def with_baseline(samples: list[Sample], baseline: str = "worth 5") -> list[Sample]:
    return [sample(str(s.response), baseline=baseline) for s in samples]


def test_every_method_is_implemented() -> None:
    assert set(METHOD_FUNCTIONS) == set(METHODS)


async def test_pointwise_judges_each_member_even_identical_ones() -> None:
    judge = RecordingJudge()
    rewards = await judge_and_reward(worth(3, 5, 3), spec("pointwise", "score"), judge)
    assert sorted(judge.texts) == [("worth 3",), ("worth 3",), ("worth 5",)]
    assert values(rewards) == [3.0, 5.0, 3.0]


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8])
async def test_round_robin_compares_every_pair_once(n: int) -> None:
    judge = RecordingJudge()
    await judge_and_reward(worth(*range(1, n + 1)), spec("round_robin"), judge)
    pairs = {frozenset(pair) for pair in judge.texts}
    assert len(judge.texts) == len(pairs) == n * (n - 1) // 2


@pytest.mark.parametrize("n", [2, 3, 5, 8, 16])
async def test_circular_compares_each_member_once_first_and_once_second(n: int) -> None:
    judge = RecordingJudge()
    texts = [f"worth {1 + i % 10}, take {i}" for i in range(n)]
    await judge_and_reward(worth(*texts), spec("circular"), judge)
    assert len(set(judge.texts)) == len(judge.texts) == n
    assert Counter(first for first, _ in judge.texts) == Counter(second for _, second in judge.texts) == Counter(texts)


@pytest.mark.parametrize("n", [2, 4, 8, 16, 32])
async def test_swiss_compares_each_member_once_per_round(n: int) -> None:
    judge = RecordingJudge()
    texts = [f"worth {1 + i % 10}, take {i}" for i in range(n)]
    await judge_and_reward(worth(*texts), spec("swiss"), judge)
    assert Counter(text for pair in judge.texts for text in pair) == Counter(texts * (n - 1).bit_length())
    assert len({frozenset(pair) for pair in judge.texts}) == len(judge.texts)


@pytest.mark.parametrize("method", ["circular", "swiss"])
@pytest.mark.parametrize("n", [3, 6, 8])
async def test_few_comparisons_order_all_members(method: str, n: int) -> None:
    rewards = await judge_and_reward(worth(*range(1, n + 1)), spec(method, "win_rate"))
    assert all(reward.win_rate is not None and 0 < reward.win_rate < 1 for reward in rewards)
    assert sum(reward.win_rate or 0 for reward in rewards) == pytest.approx(n / 2)
    # The scores of this judge do not depend on the opponent, so the ratings recover them.
    assert [reward.margin for reward in rewards] == pytest.approx([(i - (n - 1) / 2) * n / (n - 1) for i in range(n)])


async def test_rejects_a_too_large_round_robin_before_judging() -> None:
    with pytest.raises(UsageError, match=r"group_size must be at most 64 .*, not 65"):
        spec("round_robin", group_size=65)
    judge = RecordingJudge()
    with pytest.raises(UsageError, match=r"completions of one prompt: got 65, expected at most 64 "):
        await judge_and_reward(worth(*range(65)), spec("round_robin"), judge)
    assert not judge.comparisons
    assert spec("knockout", group_size=65).group_size == 65


async def test_round_robin_ties_identical_responses_without_the_judge() -> None:
    judge = RecordingJudge()
    rewards = await judge_and_reward(worth(3, 3, 7), spec("round_robin"), judge)
    assert len(judge.comparisons) == 2
    assert values(rewards) == [0.25, 0.25, 1.0]
    assert [reward.rank for reward in rewards] == [0.25, 0.25, 1.0]


@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss", "knockout", "listwise"])
async def test_a_group_of_identical_responses_ties_without_the_judge(method: str) -> None:
    judge = RecordingJudge()
    rewards = await judge_and_reward(worth(4, 4, 4), spec(method), judge)
    assert judge.comparisons == []
    assert values(rewards) == [0.5, 0.5, 0.5]
    assert {reward.status for reward in rewards} == {Status.OK}


@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss", "knockout", "listwise", "baseline"])
async def test_judges_identical_responses_if_their_score_is_needed(method: str) -> None:
    samples = with_baseline(worth(4, 4), "worth 4")
    rewards = await judge_and_reward(samples, spec(method, "expected"))
    assert values(rewards) == [4.0, 4.0]
    assert [reward.win_rate for reward in rewards] == [0.5, 0.5]


async def test_images_are_identical_by_content() -> None:
    pictures = [Media(Modality.MOLECULE, b"CCO", name) for name in ("one", "other")]
    samples = [Sample(sample("").prompt, (picture,)) for picture in pictures]
    judge = RecordingJudge()
    assert values(await judge_and_reward(samples, spec("round_robin"), judge)) == [0.5, 0.5]
    assert judge.comparisons == []


@pytest.mark.parametrize("n", range(1, 10))
async def test_knockout_finds_the_best_member_with_n_minus_1_comparisons(n: int) -> None:
    judge = RecordingJudge()
    rewards = await judge_and_reward(worth(*range(1, n + 1)), spec("knockout", "rank"), judge)
    assert len(judge.comparisons) == n - 1
    if n > 1:
        assert rewards[-1].rank == 1.0
        assert rewards[-1].win_rate == 1.0
        assert [r.value for r in rewards].count(1.0) == 1


async def test_members_eliminated_in_the_same_round_share_a_rank() -> None:
    rewards = await judge_and_reward(worth(1, 2, 3, 4, 5, 6, 7, 8), spec("knockout", "rank"))
    # Four lose their first match (ranks 0 to 3), two their second (4, 5), one the final (6).
    assert Counter(values(rewards)) == {1.5 / 7: 4, 4.5 / 7: 2, 6 / 7: 1, 1.0: 1}


async def test_knockout_alternates_positions() -> None:
    def count_first_positions(member: int | None, matches: list[Match]) -> int:
        return sum(1 if match.members[0] == member else -1 for match in matches if member in match.members)

    for best in range(8):
        texts = [f"worth {9 if i == best else 8 - i % 4}, take {i}" for i in range(8)]
        matches = await judge_group(worth(*texts), spec("knockout"), RecordingJudge())
        for match in matches:
            earlier = [other for other in matches if other.round < match.round]
            first, second = (count_first_positions(member, earlier) for member in match.members)
            assert first <= second


async def test_no_member_has_more_than_one_bye() -> None:
    for n in range(2, 18):
        matches = await judge_group(
            worth(*(f"worth {1 + i % 10}, take {i}" for i in range(n))), spec("knockout"), RecordingJudge()
        )
        rounds = max(match.round for match in matches)
        assert 2 ** (rounds - 1) < n <= 2**rounds
        first = {m: min(b.round for b in matches if m in b.members) for m in range(n)}
        assert set(first.values()) <= {1, 2}


@pytest.mark.parametrize("method", ["knockout", "round_robin", "circular", "swiss", "listwise"])
async def test_pairings_do_not_depend_on_the_order_of_arrival(method: str) -> None:
    pairings: set[frozenset[tuple[str, ...]]] = set()
    for samples in permutations(worth(2, 5, 5, 9)):
        judge = RecordingJudge()
        await judge_and_reward(list(samples), spec(method), judge)
        pairings.add(frozenset(Counter(judge.texts).items()))  # type: ignore[arg-type]
    assert len(pairings) == 1


async def test_knockout_breaks_ties_by_expected_score_then_bracket_order() -> None:
    async def level(comparison: Comparison) -> Judgment:
        finer = tuple(5.0 + int(str(r)[-1]) / 10 for r in comparison.responses)
        return Judgment(comparison.id, Status.OK, (5.0, 5.0), finer, "")

    async def wholly_level(comparison: Comparison) -> Judgment:
        return Judgment(comparison.id, Status.OK, (5.0, 5.0), (5.0, 5.0), "")

    samples = worth(1, 2, 3, 4)
    assert (await judge_group(samples, spec("knockout"), level))[-1].winner == 3
    winners = {(await judge_group(samples, spec("knockout"), wholly_level))[-1].winner for _ in range(3)}
    assert len(winners) == 1


async def test_knockout_continues_after_a_match_without_a_verdict() -> None:
    samples = worth(3, 8, "mumble", 5, 1)
    rewards = await judge_and_reward(samples, spec("knockout", "rank"))
    mumbled = rewards[2]
    assert (mumbled.value, mumbled.status) == (None, Status.UNPARSEABLE)
    assert sum(reward.value is not None for reward in rewards) >= 3
    again = await judge_and_reward(samples, spec("knockout", "rank"))
    assert values(rewards) == values(again)


async def test_without_a_verdict_the_better_earlier_scores_advance() -> None:
    async def lost_final(comparison: Comparison) -> Judgment:
        judgment = await judge(comparison)
        if len(judge.comparisons) == 3:
            return Judgment.from_failure(comparison.id, Status.ENGINE_LOST, "two replicas died")
        return judgment

    for best in (0, 1):
        judge = RecordingJudge()
        texts = [f"worth {9 if i == best else 8 if i == 1 - best else 1}, take {i}" for i in range(4)]
        matches = await judge_group(worth(*texts), spec("knockout"), lost_final)
        final = matches[-1]
        reached = {m: b.best_scores[b.members.index(m)] for b in matches[:-1] for m in final.members if m in b.members}  # type: ignore[index,arg-type]
        assert final.winner == max(reached, key=lambda m: reached[m])  # type: ignore[arg-type,return-value]


async def test_knockout_rounds_do_not_wait_for_slow_matches_elsewhere() -> None:
    texts = [f"worth {i + 1}, take {i}" for i in range(8)]
    bracket = [
        m
        for b in await judge_group(worth(*texts), spec("knockout"), RecordingJudge())
        if b.round == 1
        for m in b.members
    ]
    judge = RecordingJudge(held=[texts[bracket[0] or 0]])
    work = asyncio.create_task(judge_group(worth(*texts), spec("knockout"), judge))
    while len(judge.comparisons) < 5:  # the first round, and the second round of the other half
        await asyncio.sleep(0.001)
    judge.go.set()
    assert len(await work) == 7


async def test_baseline_is_compared_with_each_member_and_has_no_rank() -> None:
    judge = RecordingJudge()
    samples = [
        sample("worth 7", baseline="worth 5"),
        sample("worth 2", baseline="worth 2"),
        sample("worth 1", baseline="worth 9"),
    ]
    rewards = await judge_and_reward(samples, spec("baseline"), judge)
    assert sorted(judge.texts) == [("worth 1", "worth 9"), ("worth 7", "worth 5")]
    assert values(rewards) == [1.0, 0.5, 0.0]
    assert [reward.rank for reward in rewards] == [1.0, 0.5, 0.0]
    assert [reward.margin for reward in rewards] == [2.0, 0.0, -8.0]
    assert [reward.score for reward in rewards] == [7.0, None, 1.0]


async def test_names_a_sample_without_a_baseline_before_judging() -> None:
    judge = RecordingJudge()
    with pytest.raises(UsageError, match=r"^samples\[1\].baseline: missing"):
        await judge_group([sample("a", baseline="b"), sample("c")], spec("baseline"), judge)
    assert judge.comparisons == []


async def test_listwise_judges_all_members_in_one_comparison() -> None:
    judge = RecordingJudge()
    rewards = await judge_and_reward(worth(2, 9, 5), spec("listwise", "rank"), judge)
    assert [sorted(texts) for texts in judge.texts] == [["worth 2", "worth 5", "worth 9"]]
    assert values(rewards) == [0.0, 1.0, 0.5]
    assert [reward.margin for reward in rewards] == [-5.0, 5.5, -0.5]


async def test_listwise_reports_a_group_too_small_for_its_rubric() -> None:
    judge = RecordingJudge()
    group_spec = spec("listwise", "score", rubric="mllm_judge_batch")
    rewards = await judge_and_reward(worth(2, 9), group_spec, judge)
    assert judge.comparisons == []
    assert {(r.value, r.status) for r in rewards} == {(None, Status.TIMEOUT)}
    assert rewards[0].detail == "only 2 completions of its prompt arrived, too few for the rubric"


async def test_rejects_a_listwise_group_size_that_the_rubric_does_not_support() -> None:
    with pytest.raises(UsageError, match=r"mllm_judge_batch.*3 or more"):
        await judge_group(worth(1, 2), spec("listwise", rubric="mllm_judge_batch", group_size=2), RecordingJudge())


@pytest.mark.parametrize("method", ["round_robin", "circular", "swiss", "knockout", "listwise"])
async def test_a_single_completion_has_no_relative_reward(method: str) -> None:
    (reward,) = await judge_and_reward(worth(5), spec(method))
    assert (reward.value, reward.status) == (None, Status.TIMEOUT)
    assert reward.detail == "no other completion of its prompt arrived, and the reward needs one"


@pytest.mark.parametrize("relative", ["win_rate", "rank", "margin"])
async def test_a_single_completion_keeps_its_own_score(relative: str) -> None:
    (reward,) = await judge_and_reward(worth(5), spec("pointwise", relative))
    assert (reward.value, reward.status, reward.score, reward.expected) == (None, Status.TIMEOUT, 5.0, 5.0)


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "baseline"])
async def test_a_failed_member_does_not_affect_the_others(method: str) -> None:
    rewards = await judge_and_reward(with_baseline(worth(2, "mumble", 9)), spec(method))
    assert (rewards[1].value, rewards[1].score, rewards[1].status) == (None, None, Status.UNPARSEABLE)
    assert rewards[1].detail
    assert [rewards[0].value, rewards[2].value] == [0.0, 1.0]


async def test_a_failed_listwise_comparison_leaves_all_members_unscored() -> None:
    rewards = await judge_and_reward(worth(2, "mumble", 9), spec("listwise"))
    assert {(r.value, r.status) for r in rewards} == {(None, Status.UNPARSEABLE)}


async def test_ids_of_comparisons_are_unique_and_name_the_members() -> None:
    judge = RecordingJudge()
    for _ in range(2):
        await judge_and_reward(worth(1, 2, 3), spec("round_robin"), judge)
        await judge_and_reward(with_baseline(worth(1, 2)), spec("baseline"), judge)
    ids = [comparison.id for comparison in judge.comparisons]
    assert len(set(ids)) == len(ids) == 10
    assert {frozenset(name.partition("/")[2].split("-")) for name in ids} >= {
        frozenset("01"),
        frozenset(("0", "baseline")),
    }


@pytest.mark.parametrize(
    "method", ["pointwise", "round_robin", "circular", "swiss", "knockout", "listwise", "baseline"]
)
async def test_an_error_of_one_comparison_fails_the_group(method: str) -> None:
    started: list[Comparison] = []

    async def broken(comparison: Comparison) -> Judgment:
        started.append(comparison)
        if len(started) == 1:
            raise UsageError("the rubric is wrong")
        return await RecordingJudge(held=[str(r) for r in comparison.responses])(comparison)

    async with asyncio.timeout(5):
        with pytest.raises(UsageError, match="the rubric is wrong"):
            await judge_group(with_baseline(worth(1, 2, 3, 4)), spec(method), broken)


async def test_an_empty_group_needs_no_judge() -> None:
    assert await judge_group([], spec("round_robin"), RecordingJudge()) == []


async def judge_with_latecomers(
    method: str, present: list[int | str], late: list[int | str], reward: str = "win_rate"
) -> tuple[RecordingJudge, list[Reward], list[Match]]:
    """Judge latecomers after a group; returns the recording judge, their rewards, and all matches."""
    samples, group_spec = worth(*present, *late), spec(method, reward)
    earlier = await judge_group(samples[: len(present)], group_spec, RecordingJudge())
    judge, targets = RecordingJudge(), range(len(present), len(samples))
    matches = await judge_group(samples, group_spec, judge, targets, earlier)
    return judge, build_rewards(matches, group_spec, GroupInfo(len(samples), None, late=True), targets), matches


async def test_pointwise_judges_only_the_latecomers() -> None:
    judge, rewards, _ = await judge_with_latecomers("pointwise", [2, 6], [4])
    assert judge.texts == [("worth 4",)]
    assert values(rewards) == [0.5]


async def test_round_robin_latecomers_play_everyone_once() -> None:
    judge, rewards, _ = await judge_with_latecomers("round_robin", [2, 6], [4, 8])
    met = {frozenset(pair) for pair in judge.texts}
    expected = {frozenset((f"worth {a}", f"worth {b}")) for a, b in combinations((2, 4, 6, 8), 2) if {a, b} & {4, 8}}
    assert met == expected
    assert values(rewards) == [1 / 3, 1.0]


@pytest.mark.parametrize("method", ["circular", "swiss"])
async def test_latecomers_meet_others_and_are_fitted_with_all_matches(method: str) -> None:
    judge, rewards, matches = await judge_with_latecomers(method, [2, 4, 6, 8], [9, 1], "rank")
    assert all({"worth 9", "worth 1"} & set(pair) for pair in judge.texts)
    assert 2 <= len(judge.texts) <= 6
    assert len(matches) == 4 + len(judge.texts)
    assert values(rewards) == [1.0, 0.0]


async def test_a_latecomer_that_beats_the_knockout_winner_is_first() -> None:
    judge, rewards, matches = await judge_with_latecomers("knockout", [1, 2, 3, 4], [9], "rank")
    assert len(judge.comparisons) == 3  # one loser of each round, and the winner
    assert len(matches) == 6
    assert values(rewards) == [1.0]


async def test_a_latecomer_stops_after_a_loss() -> None:
    judge, rewards, _ = await judge_with_latecomers("knockout", [3, 4, 5, 6], [1, 2], "rank")
    assert len(judge.comparisons) == 2
    assert values(rewards) == [1.5 / 5, 1.5 / 5]  # same rank as the two that lost in the first round


async def test_a_latecomer_plays_a_single_completion() -> None:
    judge, rewards, _ = await judge_with_latecomers("knockout", [3], [5], "rank")
    assert len(judge.comparisons) == 1
    assert values(rewards) == [1.0]


async def test_listwise_compares_all_members_again_for_latecomers() -> None:
    judge, rewards, matches = await judge_with_latecomers("listwise", [3, 5], [4], "rank")
    assert [sorted(texts) for texts in judge.texts] == [["worth 3", "worth 4", "worth 5"]]
    assert len(matches) == 1
    assert values(rewards) == [0.5]


@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 10), min_size=2, max_size=5), st.randoms(use_true_random=False))
def test_rewards_do_not_depend_on_the_order_of_arrival(scores: list[int], random: Random) -> None:
    # A knock-out breaks ties by bracket order, which is not defined for identical texts.
    texts = [f"worth {score}, take {i}" for i, score in enumerate(scores)]
    order = random.sample(range(len(texts)), len(texts))
    for method in ("pointwise", "round_robin", "circular", "swiss", "knockout", "listwise"):
        plain = asyncio.run(judge_and_reward(worth(*texts), spec(method)))
        turned = asyncio.run(judge_and_reward(worth(*(texts[i] for i in order)), spec(method)))
        assert [get_statistics(plain[i]) for i in order] == [get_statistics(reward) for reward in turned]


def get_statistics(reward: Reward) -> tuple[float | None, ...]:
    return reward.score, reward.expected, reward.win_rate, reward.rank, reward.margin
