"""Statistics and rewards from matches: a number if there is a verdict, else None."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Judgment, Status, Usage, Verdict
from flex_judge.judges.rubrics import load_rubric
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.rewards import (
    build_rewards,
    get_expected_score,
    get_written_score,
    normalize_values,
    rank_members,
    scale_score,
)
from flex_judge.reward.types import NORMALIZATIONS, REWARDS, GroupInfo, Reward, RewardSpec

FAILURES = [status for status in Status if status is not Status.OK]


def judgment(scores: tuple[float, ...] | None, expected: tuple[float, ...] | None = None, **rest: Any) -> Judgment:
    return Judgment("a", Status.OK, scores, expected, **{"reasoning": "some reasoning"} | rest)


def make_failure(status: Status = Status.UNPARSEABLE, detail: str = "no verdict") -> Judgment:
    return Judgment.from_failure("a", status, detail)


def make_solo_matches(*judgments: Judgment) -> list[Match]:
    return [Match((i,), j) for i, j in enumerate(judgments)]


def make_scored_matches(*scores: float | None) -> list[Match]:
    """Make matches of members judged alone, from their expected scores; None makes a failure."""
    return make_solo_matches(
        *(make_failure() if score is None else judgment((round(score),), (score,)) for score in scores)
    )


def make_pair(a: int | None, b: int | None, *scores: float, **rest: Any) -> Match:
    won = None if scores[0] == scores[1] else int(scores[1] > scores[0])
    return Match((a, b), judgment(scores, scores, preferred=won, **rest))


def rewards(matches: list[Match], size: int, method: str = "pointwise", **spec: Any) -> list[Reward]:
    return build_rewards(matches, RewardSpec(method=method, **spec), GroupInfo(size, None))


def values(results: list[Reward]) -> list[float | None]:
    return [reward.value for reward in results]


@pytest.mark.parametrize("status", FAILURES)
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_a_failed_judgment_has_no_numbers(status: Status, reward: str, normalize: str) -> None:
    matches = make_solo_matches(make_failure(status, "why"), judgment((4.0,), (3.6,)), judgment((2.0,), (2.2,)))
    lost = rewards(matches, 3, reward=reward, normalize=normalize)[0]
    assert (lost.value, lost.status, lost.detail) == (None, status, "why")
    assert lost.score is lost.expected is lost.win_rate is lost.rank is lost.margin is None


@pytest.mark.parametrize("status", FAILURES)
def test_the_scores_of_a_failed_judgment_are_none(status: Status) -> None:
    assert get_written_score(make_failure(status)) is get_expected_score(make_failure(status)) is None


def test_returns_the_scores_of_the_first_response() -> None:
    assert get_written_score(judgment((2.0, 5.0), (2.5, 4.5))) == 2.0
    assert get_expected_score(judgment((2.0, 5.0), (2.5, 4.5))) == 2.5


def test_a_score_of_zero_is_a_reward() -> None:
    (zero,) = rewards(make_solo_matches(judgment((0.0,), (0.0,))), 1)
    assert (zero.value, zero.score, zero.status) == (0.0, 0.0, Status.OK)


def test_returns_both_scores_and_the_selected_one_as_value() -> None:
    matches = make_solo_matches(judgment((4.0,), (3.6,)))
    assert values(rewards(matches, 1, reward="score")) == [4.0]
    (reward,) = rewards(matches, 1, reward="expected")
    assert (reward.value, reward.score, reward.expected) == (3.6, 4.0, 3.6)


def test_falls_back_to_the_written_score_without_a_distribution() -> None:
    (reward,) = rewards(make_solo_matches(judgment((4.0,))), 1, reward="expected")
    assert (reward.value, reward.status, reward.expected) == (4.0, Status.OK, None)


def test_pointwise_compares_by_expected_score() -> None:
    results = rewards(make_scored_matches(2.1, 4.4, 3.9, 4.4), 4)
    assert [r.win_rate for r in results] == [0.0, 2.5 / 3, 1 / 3, 2.5 / 3]
    assert [r.rank for r in results] == [0.0, 2.5 / 3, 1 / 3, 2.5 / 3]
    assert [r.margin for r in results] == pytest.approx(
        [2.1 - 12.7 / 3, 4.4 - 10.4 / 3, 3.9 - 10.9 / 3, 4.4 - 10.4 / 3]
    )


def test_unscored_members_are_no_opponents() -> None:
    results = rewards(make_scored_matches(2.0, None, 4.0), 3)
    assert [r.rank for r in results] == [0.0, None, 1.0]
    assert [r.margin for r in results] == [-2.0, None, 2.0]


def test_relative_reward_without_opponents_has_their_failure_status() -> None:
    matches = make_solo_matches(
        judgment((4.0,)),
        make_failure(Status.TIMEOUT, "too slow"),
        make_failure(Status.OVERLONG, "x"),
        make_failure(Status.OVERLONG, "y"),
    )
    (reward, *_) = rewards(matches, 4, reward="rank")
    assert (reward.value, reward.status, reward.score) == (None, Status.OVERLONG, 4.0)
    assert reward.detail == "no other completion of its prompt has a score: x"


def test_status_of_a_failed_member_is_the_most_frequent_one() -> None:
    lost, late = make_failure(Status.ENGINE_LOST, "died"), make_failure(Status.TIMEOUT, "late")
    matches = [
        Match((0, 1), lost),
        Match((0, 2), late),
        Match((3, 0), late),
        make_pair(1, 2, 3, 4),
        make_pair(1, 3, 3, 4),
        make_pair(2, 3, 5, 4),
    ]
    results = rewards(matches, 4, "round_robin", reward="win_rate")
    assert (results[0].status, results[0].detail, results[0].judgments) == (Status.TIMEOUT, "late", 3)
    assert values(results) == [None, 0.0, 1.0, 0.5]


def test_votes_decide_a_pair_against_the_mean_score() -> None:
    matches = [Match((0, 1), judgment((5.0, 6.0), (5.0, 6.0), preferred=0))]
    results = rewards(matches, 2, "round_robin", reward="win_rate")
    assert values(results) == [1.0, 0.0]
    assert [r.margin for r in results] == [-1.0, 1.0]


def test_choices_count_as_win_shares() -> None:
    draw = judgment((0.5, 0.5), choice="A=B=Bad")
    matches = [
        Match((0, 1), judgment((1.0, 0.0), choice="A>B", preferred=0)),
        Match((1, 2), draw),
        make_pair(2, 0, 0.0, 1.0),
    ]
    results = rewards(matches, 3, "round_robin", reward="score")
    assert values(results) == [1.0, 0.25, 0.25]
    assert [r.win_rate for r in results] == [1.0, 0.25, 0.25]


def test_ranks_equal_win_rates_by_margin() -> None:
    matches = [make_pair(0, 1, 9, 1), make_pair(1, 2, 5, 4), make_pair(2, 0, 5, 4)]
    results = rewards(matches, 3, "round_robin", reward="rank")
    assert [r.win_rate for r in results] == [0.5, 0.5, 0.5]
    assert values(results) == [1.0, 0.0, 0.5]


def test_identical_responses_tie_without_a_score() -> None:
    matches = [Match((0, 1), None, identical=True), make_pair(0, 2, 4, 8), make_pair(2, 1, 8, 3)]
    results = rewards(matches, 3, "round_robin", reward="win_rate")
    assert values(results) == [0.25, 0.25, 1.0]
    assert [r.score for r in results] == [4.0, 3.0, 8.0]
    assert [r.margin for r in results] == [-2.0, -2.5, 4.5]
    assert [r.judgments for r in results] == [1, 1, 2]


def test_normalizes_over_all_scored_members() -> None:
    assert values(rewards(make_scored_matches(1.0, None, 3.0, 5.0), 4, normalize="center")) == [-2.0, None, 0.0, 2.0]
    assert values(rewards(make_scored_matches(1.0, None, 3.0, 5.0), 4, normalize="standardize")) == [
        -1.0,
        None,
        0.0,
        1.0,
    ]


@pytest.mark.parametrize("normalize", ["center", "standardize"])
def test_normalizes_a_group_without_spread_to_zero(normalize: str) -> None:
    assert values(rewards(make_scored_matches(0.1 + 0.2, 0.3, None), 3, normalize=normalize)) == [0.0, 0.0, None]
    assert values(rewards(make_scored_matches(4.0, None), 2, normalize=normalize)) == [0.0, None]
    assert values(rewards(make_scored_matches(None, None), 2, normalize=normalize)) == [None, None]


def test_normalization_does_not_change_the_statistics() -> None:
    (low, high) = rewards(make_scored_matches(1.0, 3.0), 2, normalize="center")
    assert (low.value, low.score, high.value, high.score) == (-1.0, 1.0, 1.0, 3.0)


def test_rewards_only_targets_but_counts_all_members() -> None:
    spec = RewardSpec(reward="rank", normalize="center")
    results = build_rewards(make_scored_matches(1.0, 2.0, 3.0), spec, GroupInfo(3, 4, late=True), targets=[2])
    assert [(r.value, r.rank, r.group) for r in results] == [(0.5, 1.0, GroupInfo(3, 4, late=True))]


def test_splits_tokens_among_completions_but_not_baselines() -> None:
    usage = Usage(101, 40, 7)
    matches = [
        make_pair(0, 1, 4, 5, usage=usage),
        make_pair(1, 2, 4, 5, usage=usage),
        make_pair(0, 2, 4, 5, usage=usage),
    ]
    assert [r.usage for r in rewards(matches, 3, "round_robin")] == [Usage(100, 40, 6)] * 3
    (held,) = rewards([make_pair(0, None, 4, 5, usage=usage)], 1, "baseline")
    assert held.usage == usage


def test_disagreement_is_the_mean_of_its_measurements() -> None:
    matches = [make_pair(0, 1, 4, 5, disagreement=1.0), make_pair(0, 2, 4, 5, disagreement=0.0), make_pair(1, 2, 4, 5)]
    assert [r.disagreement for r in rewards(matches, 3, "round_robin")] == [0.5, 1.0, 0.0]
    assert rewards(make_scored_matches(3.0), 1)[0].disagreement is None


def test_reasoning_comes_from_the_first_verdict() -> None:
    mumbled = Judgment("a", Status.UNPARSEABLE, None, None, "hm", votes=(Verdict(Status.UNPARSEABLE),))
    matches = [
        Match((0, 1), mumbled),
        make_pair(0, 2, 4, 5, reasoning="first"),
        make_pair(0, 3, 4, 5, reasoning="second"),
    ]
    assert rewards(matches, 4, "round_robin")[0].reasoning == "first"
    assert rewards(make_solo_matches(mumbled), 1)[0].reasoning == ""


def test_knockout_ranks_only_members_with_a_verdict() -> None:
    matches = [
        Match((0, 1), make_failure(), round=1, winner=0),
        Match((2, 3), judgment((4.0, 6.0), preferred=1), round=1, winner=3),
        Match((0, 3), judgment((7.0, 6.0), preferred=0), round=2, winner=0),
    ]
    results = rewards(matches, 4, "knockout", reward="rank")
    assert values(results) == [1.0, None, 0.0, 0.5]
    assert [r.win_rate for r in results] == [1.0, None, 0.0, 0.5]


@pytest.mark.parametrize(
    ("rubric", "score", "share"),
    [("general", 1, 0.0), ("general", 5.5, 0.5), ("general", 10, 1.0), ("genai_image", 0.5, 0.5)],
)
def test_scales_a_score_by_its_rubric(rubric: str, score: float, share: float) -> None:
    assert scale_score(score, rubric) == scale_score(score, load_rubric(rubric)) == share


numbers = st.floats(-100, 100).map(lambda x: round(x, 3))


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 20), numbers))
def test_normalized_values_have_zero_mean_and_unit_deviation(given_values: dict[int, float]) -> None:
    for normalization in ("center", "standardize"):
        results = normalize_values(given_values, normalization)
        assert results.keys() == given_values.keys()
        assert math.fsum(results.values()) == pytest.approx(0.0, abs=1e-9)
    if len(set(given_values.values())) > 1:
        assert math.fsum(v * v for v in results.values()) / (len(results) - 1) == pytest.approx(1.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2))
def test_ranks_run_from_zero_to_one_with_mean_one_half(worth: list[int]) -> None:
    results = rank_members(dict(enumerate(worth)))
    assert math.fsum(results.values()) == pytest.approx(len(worth) / 2)
    assert all((results[a] < results[b]) == (worth[a] < worth[b]) for a, b in combinations(range(len(worth)), 2))
    assert min(results.values()) >= 0.0
    assert max(results.values()) <= 1.0


@settings(deadline=None)
@given(
    st.integers(2, 6).flatmap(
        lambda n: st.tuples(
            st.just(n), st.lists(st.integers(-1, 1), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2)
        )
    )
)
def test_round_robin_win_rates_sum_to_half_the_members(given_results: tuple[int, list[int]]) -> None:
    n, outcomes = given_results
    matches = [make_pair(a, b, 5, 5 + won) for (a, b), won in zip(combinations(range(n), 2), outcomes, strict=True)]
    results = rewards(matches, n, "round_robin", reward="win_rate")
    assert math.fsum(r.value for r in results if r.value is not None) == pytest.approx(n / 2)
    assert math.fsum(r.margin for r in results if r.margin is not None) == pytest.approx(0.0)


@settings(deadline=None)
@given(st.lists(st.none() | numbers, min_size=1, max_size=6), st.sampled_from(REWARDS), st.sampled_from(NORMALIZATIONS))
def test_a_status_is_ok_exactly_where_there_is_a_value(scores: list[float | None], reward: str, normalize: str) -> None:
    for result in rewards(make_scored_matches(*scores), len(scores), reward=reward, normalize=normalize):
        assert (result.status is Status.OK) == (result.value is not None) == (not result.detail)
        assert Reward.from_json(result.to_json()) == result
