"""Benchmark metrics, compared with values computed by hand."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from flex_judge.experiments.benchmarks.items import TIE, Item, ItemOutcome, Label
from flex_judge.experiments.benchmarks.metrics import (
    average_groups,
    compute_share,
    precision_recall_f1,
    ranking_distance,
)
from flex_judge.experiments.benchmarks.scores import CorrelationScoring, OpinionScoring, RankingScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.judges import Judgment, Status, Verdict
from flex_judge.judges.io.files import ComparisonFileRow
from flex_judge.judges.protocol.voting import combine_votes

Scores = tuple[float, ...] | None


def make_outcome(label: Label, *runs: Scores | list[Scores], **groups: str) -> ItemOutcome:
    """Make an item with runs: the scores of one vote, or of two votes in both orders; None for a failed vote."""
    responses = [""] * (len(label) if isinstance(label, tuple) else 1 if isinstance(label, float) else 2)
    row = ComparisonFileRow("x", "here", {"prompt": "", "responses": responses}, "general", Path())
    judgments = []
    for run in runs:
        votes = run if isinstance(run, list) else [run]
        orders = ((0, 1), (1, 0)) if len(votes) == 2 else ((0, 1),)
        judgments.append(combine_votes("x", [[_make_vote(v, o) for v, o in zip(votes, orders, strict=True)]]))
    return ItemOutcome(Item(row, "task", label, groups), tuple(judgments))


def _make_vote(scores: Scores, order: tuple[int, ...]) -> Verdict:
    if scores is None:
        return Verdict(Status.UNPARSEABLE, order=order)
    return Verdict(Status.OK, scores=scores, order=order)


FIRST, SECOND, TIED = (7.0, 5.0), (2.0, 6.0), (4.0, 4.0)


def test_share_over_scored_items_and_strict_share_over_all() -> None:
    metric = compute_share([1.0, 0.0, 1.0, None], [1.0, 0.0, 1.0, 0.0])
    assert metric.value == pytest.approx(2 / 3)
    assert metric.strict == 0.5
    assert (metric.count, metric.asked) == (3, 4)
    assert metric.low is not None
    assert metric.high is not None
    assert 0 <= metric.low < 2 / 3 < metric.high <= 1


def test_interval_of_a_mean_spans_two_standard_errors() -> None:
    metric = compute_share([1.0, 0.0] * 200, [1.0, 0.0] * 200)
    assert metric.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert metric.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_has_no_value_without_verdicts() -> None:
    metric = compute_share([None], [0.0])
    assert (metric.value, metric.low, metric.count, metric.strict) == (None, None, 0, 0.0)


def test_groups_have_equal_weight_in_their_mean() -> None:
    metric = average_groups([1.0, 1.0, 1.0, 0.0, None], [1.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "a", "b", "c"])
    assert metric.value == 0.5
    assert metric.strict == pytest.approx(1 / 3)


def test_precision_recall_and_f1_are_macro_averages() -> None:
    # a: precision 1/2, recall 1/2; b: precision 1, recall 1; c: never predicted.
    precision, recall, f1 = precision_recall_f1(["a", "a", "b", "b"], ["a", "c", "b", "a"])
    assert precision.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert recall.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert f1.value == pytest.approx((0.5 + 2 / 3 + 0) / 3)


def test_ranking_distance_is_the_normalised_edit_distance() -> None:
    assert ranking_distance([9, 5, 1], [0, 1, 2]) == 0
    assert ranking_distance([5, 9, 1], [0, 1, 2]) == pytest.approx(2 / 3)
    assert ranking_distance([1, 5, 9], [0, 1, 2]) == pytest.approx(2 / 3)


def test_ranking_distance_averages_over_orders_of_ties() -> None:
    # 1 and 2 are tied: 012 has distance 0, 021 has distance 2/3.
    assert ranking_distance([9, 5, 5], [0, 1, 2]) == pytest.approx(1 / 3)
    assert ranking_distance([5, 5, 9], [2, 0, 1]) == ranking_distance([5, 5, 9], [2, 1, 0])


def test_agreement_with_and_without_ties() -> None:
    outcomes = [
        make_outcome(0, FIRST),
        make_outcome(1, FIRST),
        make_outcome(TIE, TIED),
        make_outcome(1, TIED),
        make_outcome(0, None),
    ]
    metrics = PairScoring().compute_metrics(outcomes, seed=0)
    assert metrics["agreement"].value == 2 / 4
    assert metrics["agreement"].strict == 2 / 5
    assert metrics["without_ties"].value == 1 / 3
    assert (metrics["without_ties"].asked, metrics["without_ties"].strict) == (4, 1 / 4)


def test_predicted_tie_may_earn_half_a_credit() -> None:
    assert (
        PairScoring(tie=0.5)
        .compute_metrics([make_outcome(0, TIED), make_outcome(TIE, FIRST)], seed=0)["agreement"]
        .value
        == 0.25
    )


def test_share_of_decisive_verdicts() -> None:
    outcomes = [make_outcome(0, [FIRST, TIED]), make_outcome(0, [TIED, TIED]), make_outcome(1, [FIRST, FIRST])]
    metric = PairScoring(unit="vote").compute_metrics(outcomes, seed=0)["decided"]
    assert (metric.value, metric.count, metric.asked, metric.strict) == (1 / 3, 2, 3, None)


def test_units_of_counting_verdicts() -> None:
    split = make_outcome(0, [FIRST, TIED])
    assert PairScoring(unit="vote").compute_credit(split) == (0.5, 0.5)
    assert PairScoring(unit="run").compute_credit(split) == (
        0.0,
        0.0,
    )  # one vote for the first and one tie: no majority
    assert PairScoring(unit="margin").compute_credit(split) == (1.0, 1.0)
    assert PairScoring(unit="margin").compute_credit(make_outcome(0, [FIRST, SECOND])) == (0.0, 0.0)
    assert PairScoring(unit="margin").compute_credit(make_outcome(0, [FIRST, None])) == (1.0, 1.0)
    assert PairScoring(unit="margin").compute_credit(make_outcome(0, [None, None])) == (None, 0.0)


def test_consistency_is_the_share_of_rounds_with_equal_preferences() -> None:
    outcomes = [make_outcome(0, [FIRST, FIRST]), make_outcome(0, [FIRST, SECOND]), make_outcome(1, [SECOND, None])]
    metric = PairScoring().compute_metrics(outcomes, seed=0)["consistency"]
    assert (metric.value, metric.count, metric.asked) == (0.5, 2, 3)


def test_options_must_match_exactly() -> None:
    def choose(option: str, label: str) -> ItemOutcome:
        vote = Verdict(Status.OK, scores=(0.5, 0.5), choice=option, order=(0, 1))
        return ItemOutcome(make_outcome(label, TIED).item, (combine_votes("x", [[vote]]),))

    outcomes = [choose("A=B=Bad", "A=B=Bad"), choose("A=B=Good", "A=B=Bad")]
    assert PairScoring(by_options=True).compute_metrics(outcomes, seed=0)["agreement"].value == 0.5


def test_opinion_metrics_over_clips_and_systems() -> None:
    rows = [("a", 1.0, 1.0), ("a", 3.0, 2.0), ("b", 2.0, 3.0), ("b", 4.0, 4.0), ("c", 5.0, 4.0)]
    metrics = OpinionScoring().compute_metrics(
        [make_outcome(label, (score,), system=name) for name, score, label in rows], seed=0
    )
    # scores 1 3 2 4 5 (mean 3), labels 1 2 3 4 4 (mean 2.8): covariance sum 7, squares 10 and 6.8.
    assert metrics["lcc"].value == pytest.approx(7 / math.sqrt(10 * 6.8))
    # ranks 1 3 2 4 5 and 1 2 3 4.5 4.5: Pearson of the ranks.
    assert metrics["srcc"].value == pytest.approx(8.5 / math.sqrt(10 * 9.5))
    assert metrics["mse"].value == pytest.approx((0 + 1 + 1 + 0 + 1) / 5)
    # systems: scores 2, 3, 5 against labels 1.5, 3.5, 4.
    assert metrics["system_mse"].value == pytest.approx((0.25 + 0.25 + 1) / 3)
    assert metrics["system_lcc"].value == pytest.approx(3.5 / math.sqrt(14 / 3 * 3.5))


def test_correlations_of_sources_have_equal_weight() -> None:
    rising = [make_outcome(float(k), (float(k),), source="up") for k in (1, 2, 3)]
    falling = [make_outcome(float(k), (5.0 - k,), source="down") for k in (1, 2)]
    metrics = CorrelationScoring().compute_metrics(rising + falling, seed=0)
    assert metrics["pearson"].value == pytest.approx(0.0)


def test_missing_ranking_has_maximum_strict_distance() -> None:
    outcomes = [make_outcome((0, 1, 2), (9.0, 5.0, 1.0), source="a"), make_outcome((0, 1, 2), None, source="a")]
    metric = RankingScoring().compute_metrics(outcomes, seed=0)["distance"]
    assert (metric.value, metric.strict) == (0.0, 0.5)


def test_every_grouping_has_a_table() -> None:
    tables = PairScoring().compute_tables(
        [make_outcome(0, FIRST, source="a"), make_outcome(0, SECOND, source="b")], seed=0
    )
    assert {group: metric.value for group, metric in tables["source"].items()} == {"a": 1.0, "b": 0.0}


def test_combined_judgment_uses_the_votes_of_all_runs() -> None:
    item = make_outcome(0, FIRST, FIRST, SECOND)
    assert isinstance(item.combined_judgment, Judgment)
    assert item.combined_judgment.preferred == 0
    assert PairScoring().compute_credit(item) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_interval_over_systems_contains_the_value() -> None:
    rng = random.Random(0)
    rows = []
    for k in range(40):
        quality = 1 + 4 * k / 39
        rows += [(f"s{k}", quality + rng.gauss(0, 1.5), quality + rng.gauss(0, 0.3)) for _ in range(5)]
    outcomes = [make_outcome(label, (score,), system=name) for name, score, label in rows]
    metrics = OpinionScoring().compute_metrics(outcomes, seed=0)
    for name in ("system_lcc", "system_srcc", "system_mse"):
        metric = metrics[name]
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low < metric.value < metric.high, name  # type: ignore[operator]
        assert (metric.count, metric.asked) == (40, 40)


def test_source_without_variance_or_scores_counts_as_0() -> None:
    rising = [make_outcome(float(k), (float(k),), source="up") for k in (1, 2, 3)]
    constant = [make_outcome(float(k), (3.0,), source="level") for k in (1, 2, 3)]
    unscored = [make_outcome(float(k), None, source="mute") for k in (1, 2, 3)]
    equal_labels = [make_outcome(4.0, (float(k),), source="people agree") for k in (1, 2, 3)]
    metric = CorrelationScoring().compute_metrics(rising + constant + unscored + equal_labels, seed=0)["pearson"]
    assert metric.value == pytest.approx(1 / 3)
    assert (metric.count, metric.asked) == (9, 12)


def test_precision_uses_the_verdicts_of_agreement() -> None:
    metrics = PairScoring(classes=True).compute_metrics(
        [make_outcome(0, FIRST, FIRST, SECOND), make_outcome(1, SECOND, SECOND, FIRST)], seed=0
    )
    assert metrics["agreement"].value == pytest.approx(2 / 3)
    assert metrics["precision"].value == pytest.approx(2 / 3)
    assert metrics["f1"].value == pytest.approx(2 / 3)


def test_strict_share_has_an_interval() -> None:
    metric = compute_share([1.0] * 20 + [None] * 20, [1.0] * 20 + [0.0] * 20)
    assert (metric.low, metric.high) == (pytest.approx(0.8389, abs=1e-4), 1.0)
    assert metric.strict == 0.5
    assert metric.strict_low is not None
    assert metric.strict_high is not None
    assert metric.strict_low < 0.5 < metric.strict_high
