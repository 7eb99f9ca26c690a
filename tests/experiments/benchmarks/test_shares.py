"""Intervals of shares, and the accuracy corrected for the length of the responses, with synthetic judges."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from flex_judge.alignment.best_of_n.metrics import compute_wilson_interval
from flex_judge.experiments.benchmarks.items import TIE, Item, ItemOutcome, Label
from flex_judge.experiments.benchmarks.metrics import BenchmarkMetric, average_groups, compute_ratio, compute_share
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges.io.files import ComparisonFileRow
from flex_judge.judges.judgments import Status, Verdict
from flex_judge.judges.protocol.voting import combine_votes


def make_outcome(label: Label, preferred: int | None, *responses: str) -> ItemOutcome:
    row = ComparisonFileRow("x", "here", {"prompt": "", "responses": list(responses)}, "general", Path())
    scores = (5.0, 5.0) if preferred is None else (8.0, 3.0) if preferred == 0 else (3.0, 8.0)
    judgment = combine_votes("x", [[Verdict(Status.OK, scores=scores, order=(0, 1))]])
    return ItemOutcome(Item(row, "task", label), (judgment,))


def test_wilson_interval_is_that_of_scipy() -> None:
    for right, count in ((0, 5), (3, 7), (30, 30), (412, 999)):
        expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
        assert compute_wilson_interval(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_interval_of_a_perfect_share_is_not_a_point() -> None:
    metric = compute_share([1.0] * 30, [1.0] * 30)
    assert (metric.value, metric.high) == (1.0, 1.0)
    assert metric.low == pytest.approx(0.8865, abs=1e-4)
    metric = compute_ratio([0, 0, 0], [2, 2, 0])
    assert (metric.value, metric.low, metric.count) == (0.0, 0.0, 2)
    assert metric.high == pytest.approx(0.6576, abs=1e-4)


def test_interval_covers_a_share_near_one() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for right in rng.binomial(20, 0.98, 1000):
        low, high = compute_wilson_interval(right / 20, 20)
        covered += low <= 0.98 <= high
    assert covered / 1000 > 0.92


def test_items_and_not_votes_are_counted() -> None:
    # Seven equal runs of an item are no more evidence than one.
    one = compute_share([1.0, 0.0] * 10, [1.0, 0.0] * 10)
    votes = [[Verdict(Status.OK, scores=(8.0, 3.0), order=(0, 1))]]
    item = make_outcome(0, 0, "a", "b").item
    outcomes = [
        ItemOutcome(Item(item.row, "task", label), tuple(combine_votes("x", votes) for _ in range(7)))
        for label in [0, 1] * 10
    ]
    seven = PairScoring().compute_metrics(outcomes, seed=0)["agreement"]
    assert (seven.low, seven.high) == pytest.approx((one.low, one.high))


def test_mean_of_groups_of_equal_size_has_the_interval_of_a_share() -> None:
    item_credits: list[float] = [1.0, 0.0, 1.0, 1.0] * 10
    share = compute_share(item_credits, item_credits)
    groups = average_groups(item_credits, item_credits, ["a", "b"] * 20)
    assert (groups.value, groups.low, groups.high) == pytest.approx((share.value, share.low, share.high))
    uneven = average_groups(item_credits, item_credits, ["a"] * 38 + ["b"] * 2)
    assert get_width(uneven) > get_width(groups)
    perfect = average_groups([1.0] * 10, [1.0] * 10, ["a", "b"] * 5)
    assert perfect.low == pytest.approx(compute_share([1.0] * 10, [1.0] * 10).low)


def get_width(metric: BenchmarkMetric) -> float:
    assert metric.low is not None
    assert metric.high is not None
    return metric.high - metric.low


def make_judged_outcomes(count: int, length_bias: float, error: float = 0.0) -> list[ItemOutcome]:
    """Make items whose better response is the longer one in four of five.

    Args:
        count: Number of items.
        length_bias: Probability that the judge looks at the length only.
        error: Probability that it errs otherwise.
    """
    rng = random.Random(0)
    outcomes = []
    for k in range(count):
        better = rng.randrange(2)
        longer = better if k % 5 else 1 - better
        responses = ["short", "short"]
        responses[longer] = "quite a bit longer"
        judged = 1 - better if rng.random() < error else better
        outcomes.append(make_outcome(better, longer if rng.random() < length_bias else judged, *responses))
    return outcomes


def test_judge_of_length_has_a_high_accuracy_and_no_length_controlled_one() -> None:
    metrics = PairScoring(measure="accuracy").compute_metrics(make_judged_outcomes(500, length_bias=1.0), seed=0)
    accuracy, controlled = metrics["accuracy"], metrics["length_controlled"]
    assert (accuracy.value, controlled.value) == (0.8, 0.5)
    assert controlled.high is not None
    assert accuracy.low is not None
    assert controlled.high < accuracy.low


def test_judge_without_length_bias_has_equal_accuracies() -> None:
    outcomes = make_judged_outcomes(2000, length_bias=0.0, error=0.25)
    metrics = PairScoring(measure="accuracy").compute_metrics(outcomes, seed=0)
    assert metrics["accuracy"].value == pytest.approx(0.75, abs=0.03)
    assert metrics["length_controlled"].value == pytest.approx(metrics["accuracy"].value, abs=0.02)


def test_partial_bias_lowers_the_length_controlled_accuracy() -> None:
    metrics = PairScoring(measure="accuracy").compute_metrics(make_judged_outcomes(2000, length_bias=0.5), seed=0)
    assert metrics["accuracy"].value == pytest.approx(0.9, abs=0.02)
    assert metrics["length_controlled"].value == pytest.approx(0.75, abs=0.03)


def test_length_control_needs_both_kinds_of_items() -> None:
    longer, level = make_outcome(0, 0, "long answer", "short"), make_outcome(0, 1, "same", "same")
    tie = make_outcome(TIE, None, "long answer", "short")
    assert "length_controlled" not in PairScoring().compute_metrics([longer, level, tie], seed=0)
    shorter = make_outcome(1, 0, "long answer", "short")
    outcomes = [longer, longer, shorter, level, tie]
    metric = PairScoring().compute_metrics(outcomes, seed=0)["length_controlled"]
    assert (metric.value, metric.count, metric.asked) == (0.5, 3, 3)
    table = PairScoring().compute_tables(outcomes, seed=0)["better response"]
    assert {name: (group.value, group.asked) for name, group in table.items()} == {
        "longer": (1.0, 2),
        "shorter": (0.0, 1),
    }
