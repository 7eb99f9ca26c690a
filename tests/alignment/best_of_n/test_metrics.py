"""Figures of best-of-N: from one sampling for every smaller N, with intervals, nobody left out of the denominator."""

from __future__ import annotations

import json
from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.alignment.best_of_n.metrics import (
    Estimate,
    LabelledSamples,
    compute_accuracies,
    compute_best_scores,
    estimate_mean,
    list_sample_sizes,
)
from flex_judge.judges import UsageError


@pytest.mark.parametrize(
    ("count", "found"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (16, (1, 2, 4, 8, 16)), (24, (1, 2, 4, 8, 16, 24))]
)
def test_figures_are_given_for_powers_of_two_and_for_all(count: int, found: tuple[int, ...]) -> None:
    assert list_sample_sizes(count) == found


evaluate_results = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.permutations(range(n)).flatmap(lambda order: st.integers(0, n).map(lambda k: tuple(order[:k]))),
        st.lists(st.booleans(), min_size=n, max_size=n).map(tuple),
    )
)


@settings(deadline=None, max_examples=25)
@given(evaluate_results)
def test_the_best_of_n_is_averaged_over_every_subset_of_n(prompt: tuple[tuple[int, ...], tuple[bool, ...]]) -> None:
    ranking, right = prompt
    found = compute_accuracies([LabelledSamples(ranking, right)])
    for n in list_sample_sizes(len(right)):
        subsets = [set(subset) for subset in combinations(range(len(right)), n)]
        chosen = [next((i for i in ranking if i in subset), None) for subset in subsets]
        assert found.best[n].value == pytest.approx(sum(i is not None and right[i] for i in chosen) / len(subsets))
        assert found.pass_at[n].value == pytest.approx(sum(any(right[i] for i in s) for s in subsets) / len(subsets))


def test_the_best_of_all_is_the_one_that_was_chosen() -> None:
    prompts = [LabelledSamples((2, 0, 1), (False, False, True)), LabelledSamples((0, 2, 1), (False, True, True))]
    found = compute_accuracies(prompts)
    assert found.best[3].value == 0.5
    assert found.pass_at_1.value == 0.0
    assert found.random.value == found.best[1].value == pytest.approx(0.5)
    assert found.pass_at[3].value == 1.0
    assert found.gain.value == pytest.approx(0.0)


def test_a_prompt_without_a_verdict_stays_in_the_denominator_and_counts_as_not_right() -> None:
    found = compute_accuracies([LabelledSamples((), (True, True)), LabelledSamples((0, 1), (True, True))])
    assert (found.best[1].value, found.best[2].value, found.best[2].count) == (0.5, 0.5, 2)
    assert found.pass_at[2].value == 1.0


def test_an_answer_without_a_verdict_is_not_the_best_of_itself() -> None:
    found = compute_accuracies([LabelledSamples((1,), (True, True))])
    assert (found.best[1].value, found.best[2].value) == (0.5, 1.0)


def test_the_interval_of_a_share_is_wilsons() -> None:
    found = estimate_mean([1.0] * 45 + [0.0] * 5)
    assert (found.value, found.count) == (0.9, 50)
    assert (found.low, found.high) == (pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))
    sure = estimate_mean([1.0] * 20)
    assert sure.high == pytest.approx(1.0)
    assert sure.low is not None
    assert 0.8 < sure.low < 0.9


@pytest.mark.parametrize("count", [200, 5000])
def test_the_interval_of_other_means_is_as_wide_as_their_error_says(count: int) -> None:
    values = [(i * 7 % 10) / 10 for i in range(count)]
    found = estimate_mean(values)
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.2872 / count**0.5, rel=0.1)
    assert found.low < found.value < found.high
    assert estimate_mean(values) == found


def test_one_prompt_alone_has_no_interval_unless_it_is_a_share() -> None:
    assert estimate_mean([0.25]) == Estimate(0.25, None, None, 1)
    assert estimate_mean([1.0]).low == pytest.approx(0.2065, abs=1e-4)


def test_scores_of_the_best_grow_with_n_and_leave_out_what_has_none() -> None:
    found = compute_best_scores([[1.0, None, 5.0, 3.0], [None] * 4, [2.0, 2.0, 2.0, 2.0]])
    assert [e.count for e in found.values()] == [2, 2, 2]
    assert found[1].value == pytest.approx((3 + 2) / 2)
    assert found[4].value == pytest.approx((5 + 2) / 2)
    pairs = [max(a or 0, b or 0) for a, b in combinations([1.0, None, 5.0, 3.0], 2)]
    assert found[2].value == pytest.approx((sum(pairs) / comb(4, 2) + 2) / 2)


def test_runs_that_have_no_figures_are_refused() -> None:
    for nothing in (lambda: compute_accuracies([]), lambda: compute_best_scores([[None]]), lambda: estimate_mean([])):
        with pytest.raises(UsageError):
            nothing()
    with pytest.raises(UsageError, match="the same number of answers to each, one or more, got from 1 to 2"):
        compute_accuracies([LabelledSamples((0,), (True,)), LabelledSamples((0,), (True, False))])


def test_accuracies_are_plain_json() -> None:
    row = json.loads(json.dumps(compute_accuracies([LabelledSamples((0, 1), (True, False))]).to_json()))
    assert set(row) == {"pass_at_1", "random", "best", "pass_at", "gain"}
    assert row["best"]["2"]["value"] == 1.0


def test_the_interval_of_a_difference_is_none_where_nothing_differs() -> None:
    assert estimate_mean([0.0] * 20, shares=False) == Estimate(0.0, 0.0, 0.0, 20)
    found = estimate_mean([1.0] * 5 + [0.0] * 15, shares=False)
    assert found.low is not None
    assert 0.0 <= found.low < 0.25
