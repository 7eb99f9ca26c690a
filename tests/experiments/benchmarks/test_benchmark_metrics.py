"""The metrics of benchmarks, against values worked out by hand."""

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


def outcome(label: Label, *runs: Scores | list[Scores], **groups: str) -> ItemOutcome:
    """An item with runs, each the scores of a vote, or of the votes in the given order and in reverse; None: none."""
    responses = [""] * (len(label) if isinstance(label, tuple) else 1 if isinstance(label, float) else 2)
    row = ComparisonFileRow("x", "here", {"prompt": "", "responses": responses}, "general", Path())
    judgments = []
    for run in runs:
        votes = run if isinstance(run, list) else [run]
        orders = ((0, 1), (1, 0)) if len(votes) == 2 else ((0, 1),)
        judgments.append(combine_votes("x", [[_vote(v, o) for v, o in zip(votes, orders, strict=True)]]))
    return ItemOutcome(Item(row, "task", label, groups), tuple(judgments))


def _vote(scores: Scores, order: tuple[int, ...]) -> Verdict:
    if scores is None:
        return Verdict(Status.UNPARSEABLE, order=order)
    return Verdict(Status.OK, scores=scores, order=order)


FIRST, SECOND, LEVEL = (7.0, 5.0), (2.0, 6.0), (4.0, 4.0)


def test_a_share_is_over_the_items_with_a_verdict_and_over_all_with_the_others_wrong() -> None:
    figure = compute_share([1.0, 0.0, 1.0, None], [1.0, 0.0, 1.0, 0.0])
    assert figure.value == pytest.approx(2 / 3)
    assert figure.strict == 0.5
    assert (figure.count, figure.asked) == (3, 4)
    assert figure.low is not None
    assert figure.high is not None
    assert 0 <= figure.low < 2 / 3 < figure.high <= 1


def test_the_interval_of_a_mean_is_about_two_standard_errors_wide() -> None:
    figure = compute_share([1.0, 0.0] * 200, [1.0, 0.0] * 200)
    assert figure.low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.01)
    assert figure.high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.01)


def test_nothing_judged_is_no_figure() -> None:
    figure = compute_share([None], [0.0])
    assert (figure.value, figure.low, figure.count, figure.strict) == (None, None, 0, 0.0)


def test_groups_count_alike_in_their_mean() -> None:
    figure = average_groups([1.0, 1.0, 1.0, 0.0, None], [1.0, 1.0, 1.0, 0.0, 0.0], ["a", "a", "a", "b", "c"])
    assert figure.value == 0.5
    assert figure.strict == pytest.approx(1 / 3)


def test_precision_recall_and_f1_are_means_over_the_labels() -> None:
    # a: 1 of 2 predictions right, 1 of 2 found; b: 1 of 1, 1 of 1; c: never predicted.
    precision, recall, f1 = precision_recall_f1(["a", "a", "b", "b"], ["a", "c", "b", "a"])
    assert precision.value == pytest.approx((0.5 + 0.5 + 0) / 3)
    assert recall.value == pytest.approx((0.5 + 1 + 0) / 3)
    assert f1.value == pytest.approx((0.5 + 2 / 3 + 0) / 3)


def test_a_ranking_s_distance_is_the_edits_between_it_and_people_s() -> None:
    assert ranking_distance([9, 5, 1], [0, 1, 2]) == 0
    assert ranking_distance([5, 9, 1], [0, 1, 2]) == pytest.approx(2 / 3)
    assert ranking_distance([1, 5, 9], [0, 1, 2]) == pytest.approx(2 / 3)


def test_responses_that_are_level_may_stand_in_any_order_in_a_ranking() -> None:
    # 1 and 2 are level: 012 has distance 0, 021 has 2 edits of 3.
    assert ranking_distance([9, 5, 5], [0, 1, 2]) == pytest.approx(1 / 3)
    assert ranking_distance([5, 5, 9], [2, 0, 1]) == ranking_distance([5, 5, 9], [2, 1, 0])


def test_pairs_agree_with_the_label_ties_included() -> None:
    outcomes = [outcome(0, FIRST), outcome(1, FIRST), outcome(TIE, LEVEL), outcome(1, LEVEL), outcome(0, None)]
    figures = PairScoring().compute_metrics(outcomes, seed=0)
    assert figures["agreement"].value == 2 / 4
    assert figures["agreement"].strict == 2 / 5
    assert figures["without_ties"].value == 1 / 3
    assert (figures["without_ties"].asked, figures["without_ties"].strict) == (4, 1 / 4)


def test_a_tie_may_be_worth_half_where_people_call_none() -> None:
    assert (
        PairScoring(tie=0.5).compute_metrics([outcome(0, LEVEL), outcome(TIE, FIRST)], seed=0)["agreement"].value
        == 0.25
    )


def test_verdicts_that_are_no_tie_have_a_share_of_their_own() -> None:
    outcomes = [outcome(0, [FIRST, LEVEL]), outcome(0, [LEVEL, LEVEL]), outcome(1, [FIRST, FIRST])]
    figure = PairScoring(unit="vote").compute_metrics(outcomes, seed=0)["decided"]
    assert (figure.value, figure.count, figure.asked, figure.strict) == (1 / 3, 2, 3, None)


def test_verdicts_in_each_order_count_by_themselves_together_or_by_their_lead() -> None:
    split = outcome(0, [FIRST, LEVEL])
    assert PairScoring(unit="vote").compute_credit(split) == (0.5, 0.5)
    assert PairScoring(unit="run").compute_credit(split) == (
        0.0,
        0.0,
    )  # one vote for the first, one for a tie: nothing wins
    assert PairScoring(unit="margin").compute_credit(split) == (1.0, 1.0)
    assert PairScoring(unit="margin").compute_credit(outcome(0, [FIRST, SECOND])) == (0.0, 0.0)
    assert PairScoring(unit="margin").compute_credit(outcome(0, [FIRST, None])) == (1.0, 1.0)
    assert PairScoring(unit="margin").compute_credit(outcome(0, [None, None])) == (None, 0.0)


def test_consistency_is_the_share_of_rounds_with_one_preference_in_both_orders() -> None:
    outcomes = [outcome(0, [FIRST, FIRST]), outcome(0, [FIRST, SECOND]), outcome(1, [SECOND, None])]
    figure = PairScoring().compute_metrics(outcomes, seed=0)["consistency"]
    assert (figure.value, figure.count, figure.asked) == (0.5, 2, 3)


def test_options_agree_only_if_they_are_the_same() -> None:
    def chosen(option: str, label: str) -> ItemOutcome:
        vote = Verdict(Status.OK, scores=(0.5, 0.5), choice=option, order=(0, 1))
        return ItemOutcome(outcome(label, LEVEL).item, (combine_votes("x", [[vote]]),))

    outcomes = [chosen("A=B=Bad", "A=B=Bad"), chosen("A=B=Good", "A=B=Bad")]
    assert PairScoring(by_options=True).compute_metrics(outcomes, seed=0)["agreement"].value == 0.5


def test_opinions_correlate_over_clips_and_over_the_means_of_systems() -> None:
    rows = [("a", 1.0, 1.0), ("a", 3.0, 2.0), ("b", 2.0, 3.0), ("b", 4.0, 4.0), ("c", 5.0, 4.0)]
    figures = OpinionScoring().compute_metrics(
        [outcome(label, (score,), system=name) for name, score, label in rows], seed=0
    )
    # scores 1 3 2 4 5 (mean 3), labels 1 2 3 4 4 (mean 2.8): covariance sum 7, squares 10 and 6.8.
    assert figures["lcc"].value == pytest.approx(7 / math.sqrt(10 * 6.8))
    # ranks 1 3 2 4 5 and 1 2 3 4.5 4.5: Pearson of the ranks.
    assert figures["srcc"].value == pytest.approx(8.5 / math.sqrt(10 * 9.5))
    assert figures["mse"].value == pytest.approx((0 + 1 + 1 + 0 + 1) / 5)
    # systems: scores 2, 3, 5 against labels 1.5, 3.5, 4.
    assert figures["system_mse"].value == pytest.approx((0.25 + 0.25 + 1) / 3)
    assert figures["system_lcc"].value == pytest.approx(3.5 / math.sqrt(14 / 3 * 3.5))


def test_correlations_of_sources_are_averaged_without_weights() -> None:
    rising = [outcome(float(k), (float(k),), source="up") for k in (1, 2, 3)]
    falling = [outcome(float(k), (5.0 - k,), source="down") for k in (1, 2)]
    figures = CorrelationScoring().compute_metrics(rising + falling, seed=0)
    assert figures["pearson"].value == pytest.approx(0.0)


def test_a_ranking_without_a_verdict_is_as_far_off_as_can_be() -> None:
    outcomes = [outcome((0, 1, 2), (9.0, 5.0, 1.0), source="a"), outcome((0, 1, 2), None, source="a")]
    figure = RankingScoring().compute_metrics(outcomes, seed=0)["distance"]
    assert (figure.value, figure.strict) == (0.0, 0.5)


def test_every_grouping_has_a_table_of_its_groups() -> None:
    tables = PairScoring().compute_tables([outcome(0, FIRST, source="a"), outcome(0, SECOND, source="b")], seed=0)
    assert {group: figure.value for group, figure in tables["source"].items()} == {"a": 1.0, "b": 0.0}


def test_a_judgment_of_several_runs_is_that_of_all_votes() -> None:
    item = outcome(0, FIRST, FIRST, SECOND)
    assert isinstance(item.combined_judgment, Judgment)
    assert item.combined_judgment.preferred == 0
    assert PairScoring().compute_credit(item) == (pytest.approx(2 / 3), pytest.approx(2 / 3))


def test_an_interval_over_systems_holds_its_own_value() -> None:
    rng = random.Random(0)
    rows = []
    for k in range(40):
        quality = 1 + 4 * k / 39
        rows += [(f"s{k}", quality + rng.gauss(0, 1.5), quality + rng.gauss(0, 0.3)) for _ in range(5)]
    outcomes = [outcome(label, (score,), system=name) for name, score, label in rows]
    figures = OpinionScoring().compute_metrics(outcomes, seed=0)
    for name in ("system_lcc", "system_srcc", "system_mse"):
        figure = figures[name]
        assert figure.low is not None
        assert figure.high is not None
        assert figure.low < figure.value < figure.high, name  # type: ignore[operator]
        assert (figure.count, figure.asked) == (40, 40)


def test_a_source_of_which_a_judge_says_nothing_counts_as_0() -> None:
    rising = [outcome(float(k), (float(k),), source="up") for k in (1, 2, 3)]
    level = [outcome(float(k), (3.0,), source="level") for k in (1, 2, 3)]
    mute = [outcome(float(k), None, source="mute") for k in (1, 2, 3)]
    agreed = [outcome(4.0, (float(k),), source="people agree") for k in (1, 2, 3)]
    figure = CorrelationScoring().compute_metrics(rising + level + mute + agreed, seed=0)["pearson"]
    assert figure.value == pytest.approx(1 / 3)
    assert (figure.count, figure.asked) == (9, 12)


def test_precision_is_of_the_verdicts_that_agreement_counts() -> None:
    figures = PairScoring(classes=True).compute_metrics(
        [outcome(0, FIRST, FIRST, SECOND), outcome(1, SECOND, SECOND, FIRST)], seed=0
    )
    assert figures["agreement"].value == pytest.approx(2 / 3)
    assert figures["precision"].value == pytest.approx(2 / 3)
    assert figures["f1"].value == pytest.approx(2 / 3)


def test_what_is_missing_and_wrong_has_an_interval_too() -> None:
    figure = compute_share([1.0] * 20 + [None] * 20, [1.0] * 20 + [0.0] * 20)
    assert (figure.low, figure.high) == (1.0, 1.0)
    assert figure.strict == 0.5
    assert figure.strict_low is not None
    assert figure.strict_high is not None
    assert figure.strict_low < 0.5 < figure.strict_high
