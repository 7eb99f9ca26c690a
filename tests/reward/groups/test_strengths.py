"""Bradley-Terry strengths and least-squares ratings, compared with scipy, numpy and complete tournaments."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import spearmanr

from flex_judge.reward.groups.strengths import (
    PRIOR_DEVIATION,
    PairResult,
    fit_ratings,
    fit_strengths,
    predict_win,
    predict_win_rates,
)

pairs = st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1])
outcome_lists = st.lists(
    st.builds(lambda pair, value: PairResult(*pair, value), pairs, st.sampled_from([0.0, 0.5, 1.0])), max_size=40
)
difference_lists = st.lists(
    st.builds(lambda pair, value: PairResult(*pair, value), pairs, st.floats(-9, 9)), min_size=1, max_size=40
)


@settings(deadline=None, max_examples=40)
@given(outcome_lists)
def test_strengths_maximize_the_posterior(outcomes: list[PairResult]) -> None:
    def compute_loss(strengths: np.ndarray) -> float:
        gaps = np.array([strengths[outcome.first] - strengths[outcome.second] for outcome in outcomes])
        values = np.array([outcome.value for outcome in outcomes])
        losses = values * np.logaddexp(0, -gaps) + (1 - values) * np.logaddexp(0, gaps)
        return float(losses.sum() + strengths @ strengths / (2 * PRIOR_DEVIATION**2))

    strengths = fit_strengths(outcomes)
    expected = minimize(compute_loss, np.zeros(10), method="BFGS", options={"gtol": 1e-7}).x
    assert strengths == pytest.approx({member: expected[member] for member in strengths}, abs=1e-4)
    assert math.fsum(strengths.values()) == pytest.approx(0.0, abs=1e-4)


@settings(deadline=None)
@given(difference_lists)
def test_ratings_are_the_least_squares_solution(differences: list[PairResult]) -> None:
    design = np.zeros((len(differences), 10))
    for row, difference in zip(design, differences, strict=True):
        row[difference.first], row[difference.second] = 1, -1
    expected = np.linalg.lstsq(design, np.array([difference.value for difference in differences]), rcond=None)[0]
    ratings = fit_ratings(differences)
    assert ratings == pytest.approx({member: expected[member] for member in ratings}, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_a_complete_tournament_is_ranked_by_its_wins(count: int, random: Random) -> None:
    outcomes = [PairResult(a, b, random.choice([0.0, 0.5, 1.0])) for a, b in combinations(range(count), 2)]
    wins: Counter[int] = Counter()
    for outcome in outcomes:
        wins.update({outcome.first: outcome.value, outcome.second: 1 - outcome.value})  # type: ignore[dict-item]
    strengths = fit_strengths(outcomes)
    for a, b in combinations(range(count), 2):
        assert (strengths[a] < strengths[b]) == (wins[a] < wins[b])
        assert (strengths[a] == strengths[b]) == (wins[a] == wins[b])
    rates = predict_win_rates(strengths)
    assert math.fsum(rates.values()) == pytest.approx(count / 2)


@settings(deadline=None)
@given(st.integers(2, 8), st.randoms(use_true_random=False))
def test_ratings_of_a_complete_tournament_are_mean_differences(count: int, random: Random) -> None:
    differences = [PairResult(a, b, random.uniform(-9, 9)) for a, b in combinations(range(count), 2)]
    totals: Counter[int] = Counter()
    for one in differences:
        totals.update({one.first: one.value, one.second: -one.value})  # type: ignore[dict-item]
    assert fit_ratings(differences) == pytest.approx({m: total / count for m, total in totals.items()}, abs=1e-9)


def test_recovers_the_order_of_known_strengths_from_few_matches() -> None:
    random = Random(0)
    strengths = {member: member / 4 for member in range(20)}
    outcomes = []
    for _ in range(400):
        a, b = random.sample(range(20), 2)
        outcomes.append(PairResult(a, b, float(random.random() < predict_win(strengths[a], strengths[b]))))
    fitted = fit_strengths(outcomes)
    assert spearmanr([fitted[member] for member in range(20)], range(20)).statistic > 0.9


def test_a_member_that_beats_strong_members_is_stronger() -> None:
    chain = [PairResult(1, 0, 1.0), PairResult(2, 1, 1.0), PairResult(3, 2, 1.0), PairResult(4, 0, 1.0)]
    strengths = fit_strengths(chain)
    assert strengths[3] > strengths[4] > strengths[0]


def test_no_matches_have_no_strengths() -> None:
    assert fit_strengths([]) == fit_ratings([]) == {}
    assert predict_win_rates({3: 0.0}) == {}


def test_probabilities_do_not_overflow() -> None:
    assert (predict_win(1e6, -1e6), predict_win(-1e6, 1e6), predict_win(2.0, 2.0)) == (1.0, 0.0, 0.5)
    assert all(map(math.isfinite, fit_strengths([PairResult(0, 1, 1.0)] * 10_000).values()))
