"""Best-of-N metrics: accuracies for every n up to N from one set of samples, with intervals over all prompts."""

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
    ("count", "sizes"), [(1, (1,)), (2, (1, 2)), (5, (1, 2, 4, 5)), (16, (1, 2, 4, 8, 16)), (24, (1, 2, 4, 8, 16, 24))]
)
def test_sample_sizes_are_powers_of_two_and_the_count(count: int, sizes: tuple[int, ...]) -> None:
    assert list_sample_sizes(count) == sizes


labelled_prompts = st.integers(1, 6).flatmap(
    lambda n: st.tuples(
        st.permutations(range(n)).flatmap(lambda order: st.integers(0, n).map(lambda k: tuple(order[:k]))),
        st.lists(st.booleans(), min_size=n, max_size=n).map(tuple),
    )
)


@settings(deadline=None, max_examples=25)
@given(labelled_prompts)
def test_best_of_n_is_averaged_over_all_subsets(prompt: tuple[tuple[int, ...], tuple[bool, ...]]) -> None:
    ranking, right = prompt
    accuracies = compute_accuracies([LabelledSamples(ranking, right)])
    for n in list_sample_sizes(len(right)):
        subsets = [set(subset) for subset in combinations(range(len(right)), n)]
        chosen = [next((i for i in ranking if i in subset), None) for subset in subsets]
        assert accuracies.best[n].value == pytest.approx(sum(i is not None and right[i] for i in chosen) / len(subsets))
        assert accuracies.pass_at[n].value == pytest.approx(
            sum(any(right[i] for i in s) for s in subsets) / len(subsets)
        )


def test_best_of_all_samples_is_the_chosen_one() -> None:
    prompts = [LabelledSamples((2, 0, 1), (False, False, True)), LabelledSamples((0, 2, 1), (False, True, True))]
    accuracies = compute_accuracies(prompts)
    assert accuracies.best[3].value == 0.5
    assert accuracies.pass_at_1.value == 0.0
    assert accuracies.random.value == accuracies.best[1].value == pytest.approx(0.5)
    assert accuracies.pass_at[3].value == 1.0
    assert accuracies.gain.value == pytest.approx(0.0)


def test_prompt_without_a_verdict_counts_as_wrong() -> None:
    accuracies = compute_accuracies([LabelledSamples((), (True, True)), LabelledSamples((0, 1), (True, True))])
    assert (accuracies.best[1].value, accuracies.best[2].value, accuracies.best[2].count) == (0.5, 0.5, 2)
    assert accuracies.pass_at[2].value == 1.0


def test_answer_without_a_verdict_is_never_the_best() -> None:
    accuracies = compute_accuracies([LabelledSamples((1,), (True, True))])
    assert (accuracies.best[1].value, accuracies.best[2].value) == (0.5, 1.0)


def test_share_has_a_wilson_interval() -> None:
    estimate = estimate_mean([1.0] * 45 + [0.0] * 5)
    assert (estimate.value, estimate.count) == (0.9, 50)
    assert (estimate.low, estimate.high) == (pytest.approx(0.7864, abs=1e-4), pytest.approx(0.9565, abs=1e-4))
    perfect = estimate_mean([1.0] * 20)
    assert perfect.high == pytest.approx(1.0)
    assert perfect.low is not None
    assert 0.8 < perfect.low < 0.9


@pytest.mark.parametrize("count", [200, 5000])
def test_interval_width_matches_the_standard_error(count: int) -> None:
    values = [(i * 7 % 10) / 10 for i in range(count)]
    estimate = estimate_mean(values)
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.2872 / count**0.5, rel=0.1)
    assert estimate.low < estimate.value < estimate.high
    assert estimate_mean(values) == estimate


def test_single_prompt_has_an_interval_only_for_a_share() -> None:
    assert estimate_mean([0.25]) == Estimate(0.25, None, None, 1)
    assert estimate_mean([1.0]).low == pytest.approx(0.2065, abs=1e-4)


def test_best_scores_grow_with_n_and_skip_unscored_answers() -> None:
    best_scores = compute_best_scores([[1.0, None, 5.0, 3.0], [None] * 4, [2.0, 2.0, 2.0, 2.0]])
    assert [e.count for e in best_scores.values()] == [2, 2, 2]
    assert best_scores[1].value == pytest.approx((3 + 2) / 2)
    assert best_scores[4].value == pytest.approx((5 + 2) / 2)
    pairs = [max(a or 0, b or 0) for a, b in combinations([1.0, None, 5.0, 3.0], 2)]
    assert best_scores[2].value == pytest.approx((sum(pairs) / comb(4, 2) + 2) / 2)


def test_rejects_empty_or_unequal_input() -> None:
    for compute in (lambda: compute_accuracies([]), lambda: compute_best_scores([[None]]), lambda: estimate_mean([])):
        with pytest.raises(UsageError):
            compute()
    with pytest.raises(UsageError, match="the same number of answers for each prompt, one or more; got from 1 to 2"):
        compute_accuracies([LabelledSamples((0,), (True,)), LabelledSamples((0,), (True, False))])


def test_accuracies_convert_to_json() -> None:
    row = json.loads(json.dumps(compute_accuracies([LabelledSamples((0, 1), (True, False))]).to_json()))
    assert set(row) == {"pass_at_1", "random", "best", "pass_at", "gain"}
    assert row["best"]["2"]["value"] == 1.0


def test_difference_of_zero_has_a_zero_width_interval() -> None:
    assert estimate_mean([0.0] * 20, shares=False) == Estimate(0.0, 0.0, 0.0, 20)
    estimate = estimate_mean([1.0] * 5 + [0.0] * 15, shares=False)
    assert estimate.low is not None
    assert 0.0 <= estimate.low < 0.25
