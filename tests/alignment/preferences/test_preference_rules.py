"""Rules of preference pairs: what is judged, what becomes a pair, and that nothing depends on position."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import SETTINGS, fair_judge

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.preferences import DROP_REASONS, RULES, PairResult, RuleSpec, make_rule
from flex_judge.judges import Comparison, FlexJudge, Judgment, Message, Status, UsageError, Verdict
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.protocol.voting import combine_votes

ROW = PromptRow("q1", (Message("user", "What is 2 + 3?"),))
COLD, HOT = 0.8, 1.2
GIVEN, TURNED = (0, 1), (1, 0)


def sampled(*responses: str, temperatures: Sequence[float] | None = None, cut: Sequence[bool] = ()) -> SampledPrompt:
    return SampledPrompt(
        ROW, responses, tuple(temperatures or [1.0] * len(responses)), cut=tuple(cut), policy="policy@1"
    )


def judged(comparison: Comparison, *scores: float | None, expected: float | None = None) -> Judgment:
    """A judgment of a response on its own, with a vote for each score."""
    told = None if expected is None else (expected,)
    votes = [
        Verdict(Status.UNPARSEABLE, order=(0,))
        if s is None
        else Verdict(Status.OK, (s,), told, order=(0,), reasoning=f"I think {s}")
        for s in scores
    ]
    return combine_votes(comparison.id, [[vote] for vote in votes], model="judge@1", provenance={"rubric": "general"})


def found(name: str, answers: Mapping[str, float | None], **spec: object) -> PairResult:
    """What a rule makes of answers with their scores."""
    rule, asked = make_rule(RuleSpec(name, **spec)), sampled(*answers)  # type: ignore[arg-type]
    return rule.make_pairs(
        asked, [judged(c, answers[str(c.responses[0])]) for c in rule.make_comparisons(asked, "general")]
    )


def texts(found: PairResult) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected.text) for pair in found.pairs]


POINTWISE = [name for name in RULES if name != "two_temperatures"]


@pytest.mark.parametrize("name", POINTWISE)
def test_different_answers_are_judged_once_each_and_empty_ones_not_at_all(name: str) -> None:
    comparisons = make_rule(RuleSpec(name)).make_comparisons(sampled("five", "", "six", "five\n", " "), "general")
    assert [(c.id, c.responses, c.rubric) for c in comparisons] == [
        ("q1/0", ("five",), "general"),
        ("q1/2", ("six",), "general"),
    ]
    assert all(c.prompt == ROW.prompt for c in comparisons)


@pytest.mark.parametrize(
    ("responses", "reason"), [((), "empty"), (("5",), "empty"), (("5", " "), "empty"), (("5", "5 "), "equal_text")]
)
@pytest.mark.parametrize("name", POINTWISE)
def test_nothing_is_judged_where_no_pair_can_come_of_it(name: str, responses: tuple[str, ...], reason: str) -> None:
    rule, asked = make_rule(RuleSpec(name)), sampled(*responses)
    assert rule.make_comparisons(asked, "general") == []
    assert rule.make_pairs(asked, []) == PairResult.without_pairs(reason)


@pytest.mark.parametrize("name", POINTWISE)
def test_unscored_and_missing_judgments_leave_an_answer_out(name: str) -> None:
    rule, asked = make_rule(RuleSpec(name)), sampled("a", "b", "c", "d")
    first, second, third, _ = rule.make_comparisons(asked, "general")
    judgments = [judged(first, 5), judged(second, None), judged(third, 2)]
    assert texts(rule.make_pairs(asked, judgments)) == [("a", "c")]
    assert rule.make_pairs(asked, judgments[:2]) == PairResult.without_pairs("unscored")


def test_the_highest_answer_is_held_against_the_lowest() -> None:
    assert texts(found("highest_lowest", {"a": 3, "b": 9, "c": 1, "d": 5})) == [("b", "c")]


@pytest.mark.parametrize(("quantile", "rejected"), [(0.0, "e"), (0.25, "d"), (0.5, "c"), (0.9, "b")])
def test_the_highest_answer_is_held_against_the_one_at_a_quantile(quantile: float, rejected: str) -> None:
    answers: dict[str, float | None] = {"d": 2, "a": 9, "e": 1, "b": 7, "c": 5}
    assert texts(found("highest_quantile", answers, quantile=quantile)) == [("a", rejected)]


def test_an_answer_that_was_sampled_twice_counts_twice_for_a_quantile() -> None:
    rule, asked = make_rule(RuleSpec("highest_quantile", quantile=0.5)), sampled("a", "c", "b", "b", "b")
    scores = {"a": 9.0, "b": 5.0, "c": 1.0}
    judgments = [judged(c, scores[str(c.responses[0])]) for c in rule.make_comparisons(asked, "general")]
    assert texts(rule.make_pairs(asked, judgments)) == [("a", "b")]


def test_all_pairs_are_those_whose_scores_differ() -> None:
    pairs = found("all_pairs", {"a": 3, "b": 9, "c": 3, "d": 5})
    assert set(texts(pairs)) == {("b", "a"), ("b", "c"), ("b", "d"), ("d", "a"), ("d", "c")}
    assert pairs.dropped == {"tied": 1}


def test_all_pairs_hold_each_two_texts_against_each_other_once() -> None:
    rule, asked = make_rule(RuleSpec("all_pairs")), sampled("a", "b", "a", "b", "a")
    judgments = [judged(c, 5.0 if c.responses[0] == "a" else 2.0) for c in rule.make_comparisons(asked, "general")]
    assert rule.make_pairs(asked, judgments).dropped == {}
    assert texts(rule.make_pairs(asked, judgments)) == [("a", "b")]


def test_of_an_answer_that_was_judged_twice_the_better_judgment_stands() -> None:
    asked = sampled("a", "b", "a")
    judgments = [judged(Comparison(f"q1/{i}", ROW.prompt, ("",)), score) for i, score in enumerate((2, 5, 9))]
    (pair,) = make_rule(RuleSpec("all_pairs")).make_pairs(asked, judgments).pairs
    assert (pair.chosen.text, pair.chosen.score, pair.rejected.text, pair.rejected.score) == ("a", 9, "b", 5)


def test_a_pair_knows_what_it_rests_on() -> None:
    rule = make_rule(RuleSpec("highest_lowest"))
    asked = sampled("a", "b", temperatures=[0.7, 1.1], cut=[False, True])
    good, bad = rule.make_comparisons(asked, "general")
    (pair,) = rule.make_pairs(asked, [judged(bad, 1, 2, 5, expected=2.5), judged(good, 5, 5, None, expected=4.5)]).pairs
    assert (pair.rule, pair.rubric, pair.judge, pair.policy) == ("highest_lowest", "general", "judge@1", "policy@1")
    assert (pair.chosen.score, pair.chosen.expected, pair.chosen.temperature, pair.chosen.cut) == (5, 4.5, 0.7, False)
    assert (pair.rejected.index, pair.rejected.cut, pair.rejected.reasoning) == (1, True, "I think 1")
    assert pair.votes == 5
    assert pair.margin == pytest.approx(5 - 8 / 3, abs=1e-6)
    assert pair.disagreement == pytest.approx(1 / 6)  # of six combinations of votes, two are ties


def test_equal_answers_are_drawn_by_seed_and_id_and_not_by_position() -> None:
    answers: dict[str, float | None] = {"a": 5, "b": 5, "c": 5, "d": 1}
    chosen = {seed: texts(found("highest_lowest", answers, seed=seed))[0][0] for seed in range(20)}
    assert set(chosen.values()) == {"a", "b", "c"}
    for seed, first in chosen.items():
        turned = dict(reversed(answers.items()))
        assert texts(found("highest_lowest", turned, seed=seed)) == [(first, "d")]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(POINTWISE),
    st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.integers(1, 4), max_size=8),
    st.randoms(use_true_random=False),
)
def test_the_order_of_answers_and_judgments_makes_no_difference(
    name: str, answers: dict[str, float | None], shuffler: random.Random
) -> None:
    random.seed(shuffler.random())
    names = list(answers)
    shuffler.shuffle(names)
    one, other = found(name, answers), found(name, {name: answers[name] for name in names})
    assert set(texts(one)) == set(texts(other))
    assert one.dropped == other.dropped
    assert set(one.dropped) <= set(DROP_REASONS)
    for pair in one.pairs:
        assert pair.chosen.score > pair.rejected.score
        assert pair.chosen.text != pair.rejected.text


# The paper's rule


def verdict(cold: float | None, hot: float | None, order: tuple[int, ...]) -> Verdict:
    if cold is None or hot is None:
        return Verdict(Status.UNPARSEABLE, order=order)
    return Verdict(Status.OK, (cold, hot), order=order, reasoning="because")


def of_two(*rounds: Sequence[Verdict], winner: str = "low", names: tuple[str, ...] = ("hot", "cold")) -> PairResult:
    """What the rule makes of a hot and a cold answer; votes are on the cold one first."""
    rule = make_rule(RuleSpec("two_temperatures", winner=winner))
    asked = sampled(*names, temperatures=[HOT, COLD])
    (comparison,) = rule.make_comparisons(asked, "general")
    assert comparison.responses == ("cold", "hot")
    return rule.make_pairs(asked, [combine_votes(comparison.id, rounds, model="judge@1")])


def test_the_colder_answer_is_chosen_where_it_wins_in_both_orders() -> None:
    pairs = of_two([verdict(8, 4, GIVEN), verdict(6, 5, TURNED)])
    (pair,) = pairs.pairs
    assert texts(pairs) == [("cold", "hot")]
    assert (pair.chosen.temperature, pair.rejected.temperature) == (COLD, HOT)
    assert (pair.chosen.score, pair.rejected.score, pair.margin) == (7, 4.5, 2.5)
    assert (pair.chosen.index, pair.votes, pair.disagreement) == (1, 2, 0)
    assert pair.chosen.reasoning == pair.rejected.reasoning == "because"


@pytest.mark.parametrize(
    ("votes", "reason"),
    [
        ([(8, 4), (4, 5)], "orders_disagree"),
        ([(8, 4), (5, 5)], "tied"),
        ([(5, 5), (5, 5)], "tied"),
        ([(8, 4), (None, None)], "unscored"),
        ([(None, None), (None, None)], "unscored"),
        ([(4, 8), (4, 8)], "wrong_side"),
    ],
)
def test_there_is_no_pair_without_a_win_in_both_orders(
    votes: list[tuple[float | None, float | None]], reason: str
) -> None:
    assert of_two([verdict(*votes[0], GIVEN), verdict(*votes[1], TURNED)]) == PairResult.without_pairs(reason)


@pytest.mark.parametrize(("winner", "kept"), [("low", [False, True]), ("high", [True, False]), ("either", [True] * 2)])
def test_which_temperature_may_win_is_a_setting(winner: str, kept: list[bool]) -> None:
    hot_wins = of_two([verdict(2, 9, GIVEN), verdict(3, 9, TURNED)], winner=winner)
    cold_wins = of_two([verdict(9, 2, GIVEN), verdict(9, 3, TURNED)], winner=winner)
    assert texts(hot_wins) == [("hot", "cold")] * kept[0]
    assert texts(cold_wins) == [("cold", "hot")] * kept[1]


def test_with_several_votes_the_majority_of_each_order_counts() -> None:
    good, bad = verdict(8, 4, GIVEN), verdict(4, 6, GIVEN)
    pairs = of_two([good, verdict(7, 4, TURNED)], [bad, verdict(7, 4, TURNED)], [good, verdict(5, 5, TURNED)])
    assert texts(pairs) == [("cold", "hot")]
    assert (pairs.pairs[0].votes, pairs.pairs[0].disagreement) == (6, 0.25)
    assert of_two([good, verdict(7, 4, TURNED)], [bad, verdict(7, 4, TURNED)]) == PairResult.without_pairs("tied")


def test_a_majority_that_is_outweighed_makes_no_pair() -> None:
    votes = [verdict(5, 4, GIVEN), verdict(5, 4, TURNED)], [verdict(5, 4, GIVEN), verdict(5, 4, TURNED)]
    assert of_two(*votes, [verdict(1, 10, GIVEN), verdict(1, 10, TURNED)]) == PairResult.without_pairs("tied")


def test_a_judge_that_reads_one_order_alone_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'q1/1-0' was judged in one order; judge with order 'both'"):
        of_two([verdict(8, 4, GIVEN)])


@pytest.mark.parametrize("temperatures", [[0.8, 0.8], [0.8, 1.0, 1.2], []])
def test_two_temperatures_need_two_temperatures(temperatures: list[float]) -> None:
    asked = replace(sampled("a", "b", "c"), temperatures=tuple(temperatures))
    with pytest.raises(UsageError, match="rule two_temperatures needs answers sampled at two temperatures"):
        make_rule(RuleSpec("two_temperatures")).make_comparisons(asked, "general")


def test_whether_answers_can_be_paired_at_all_is_known_before_they_are_sampled() -> None:
    make_rule(RuleSpec("two_temperatures")).check_temperatures([0.8, 1.2])
    make_rule(RuleSpec("all_pairs")).check_temperatures([1.0, 1.0])
    with pytest.raises(UsageError, match="rule two_temperatures needs answers sampled at two temperatures, not at: 1"):
        make_rule(RuleSpec("two_temperatures")).check_temperatures([1.0, 1.0])
    with pytest.raises(UsageError, match="rule highest_lowest needs at least 2 answers to a prompt, not 1"):
        make_rule(RuleSpec("highest_lowest")).check_temperatures([1.0])


@pytest.mark.parametrize(("names", "reason"), [(("a", "a "), "equal_text"), (("a", ""), "empty")])
def test_two_temperatures_judge_nothing_where_the_answers_do_not_differ(names: tuple[str, str], reason: str) -> None:
    rule, asked = make_rule(RuleSpec("two_temperatures")), sampled(*names, temperatures=[COLD, HOT])
    assert rule.make_comparisons(asked, "general") == []
    assert rule.make_pairs(asked, []) == PairResult.without_pairs(reason)


@pytest.mark.parametrize("name", RULES)
async def test_every_rule_works_with_a_judge(name: str) -> None:
    rule = make_rule(RuleSpec(name, winner="either"))
    judge = FlexJudge(ScriptedEngine(fair_judge), replace(SETTINGS, order=rule.order))
    asked = sampled("five", "six", temperatures=[COLD, HOT])
    judgments = [await judge.ajudge(comparison) for comparison in rule.make_comparisons(asked, "general")]
    (pair,) = rule.make_pairs(asked, judgments).pairs
    assert {pair.chosen.text, pair.rejected.text} == {"five", "six"}
    assert (pair.rubric, pair.votes, pair.disagreement) == ("general", 2, 0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "best"}, "rule must be one of highest_lowest"),
        ({"winner": "hot"}, "winner must be one of low, high, either"),
        ({"quantile": 1.0}, "quantile must be 0 or more and below 1"),
    ],
)
def test_settings_of_rules_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RuleSpec(**values)  # type: ignore[arg-type]
