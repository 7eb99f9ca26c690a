"""Pairing rules: the comparisons to judge, the resulting pairs, and independence from the order of the answers."""

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
LOW, HIGH = 0.8, 1.2
AS_GIVEN, SWAPPED = (0, 1), (1, 0)


def make_sampled(
    *responses: str, temperatures: Sequence[float] | None = None, cut: Sequence[bool] = ()
) -> SampledPrompt:
    return SampledPrompt(
        ROW, responses, tuple(temperatures or [1.0] * len(responses)), cut=tuple(cut), policy="policy@1"
    )


def make_judgment(comparison: Comparison, *scores: float | None, expected: float | None = None) -> Judgment:
    """Make a judgment of a single response, with one vote per score."""
    expected_scores = None if expected is None else (expected,)
    votes = [
        Verdict(Status.UNPARSEABLE, order=(0,))
        if s is None
        else Verdict(Status.OK, (s,), expected_scores, order=(0,), reasoning=f"I think {s}")
        for s in scores
    ]
    return combine_votes(comparison.id, [[vote] for vote in votes], model="judge@1", provenance={"rubric": "general"})


def apply_rule(name: str, answers: Mapping[str, float | None], **spec: object) -> PairResult:
    """Apply a rule to answers with these scores."""
    rule, prompt = make_rule(RuleSpec(name, **spec)), make_sampled(*answers)  # type: ignore[arg-type]
    return rule.make_pairs(
        prompt, [make_judgment(c, answers[str(c.responses[0])]) for c in rule.make_comparisons(prompt, "general")]
    )


def list_texts(result: PairResult) -> list[tuple[str, str]]:
    return [(pair.chosen.text, pair.rejected.text) for pair in result.pairs]


POINTWISE_RULES = [name for name in RULES if name != "two_temperatures"]


@pytest.mark.parametrize("name", POINTWISE_RULES)
def test_judges_each_distinct_non_empty_answer_once(name: str) -> None:
    comparisons = make_rule(RuleSpec(name)).make_comparisons(make_sampled("five", "", "six", "five\n", " "), "general")
    assert [(c.id, c.responses, c.rubric) for c in comparisons] == [
        ("q1/0", ("five",), "general"),
        ("q1/2", ("six",), "general"),
    ]
    assert all(c.prompt == ROW.prompt for c in comparisons)


@pytest.mark.parametrize(
    ("responses", "reason"),
    [
        *(((), "empty"), (("5",), "empty"), (("5", " "), "empty"), (("5", "\u200b"), "empty")),
        *((("5", "5 "), "equal_text"), (("−5 m", "-5\u00a0m\r\n"), "equal_text")),
    ],
)
@pytest.mark.parametrize("name", POINTWISE_RULES)
def test_judges_nothing_if_no_pair_is_possible(name: str, responses: tuple[str, ...], reason: str) -> None:
    rule, prompt = make_rule(RuleSpec(name)), make_sampled(*responses)
    assert rule.make_comparisons(prompt, "general") == []
    assert rule.make_pairs(prompt, []) == PairResult.without_pairs(reason)


@pytest.mark.parametrize("name", POINTWISE_RULES)
def test_leaves_out_answers_without_a_scored_judgment(name: str) -> None:
    rule, prompt = make_rule(RuleSpec(name)), make_sampled("a", "b", "c", "d")
    first, second, third, _ = rule.make_comparisons(prompt, "general")
    judgments = [make_judgment(first, 5), make_judgment(second, None), make_judgment(third, 2)]
    assert list_texts(rule.make_pairs(prompt, judgments)) == [("a", "c")]
    assert rule.make_pairs(prompt, judgments[:2]) == PairResult.without_pairs("unscored")


def test_pairs_highest_with_lowest() -> None:
    assert list_texts(apply_rule("highest_lowest", {"a": 3, "b": 9, "c": 1, "d": 5})) == [("b", "c")]


@pytest.mark.parametrize(("quantile", "rejected"), [(0.0, "e"), (0.25, "d"), (0.5, "c"), (0.9, "b")])
def test_pairs_highest_with_quantile(quantile: float, rejected: str) -> None:
    answers: dict[str, float | None] = {"d": 2, "a": 9, "e": 1, "b": 7, "c": 5}
    assert list_texts(apply_rule("highest_quantile", answers, quantile=quantile)) == [("a", rejected)]


def test_repeated_answer_counts_twice_for_a_quantile() -> None:
    rule, prompt = make_rule(RuleSpec("highest_quantile", quantile=0.5)), make_sampled("a", "c", "b", "b", "b")
    scores = {"a": 9.0, "b": 5.0, "c": 1.0}
    judgments = [make_judgment(c, scores[str(c.responses[0])]) for c in rule.make_comparisons(prompt, "general")]
    assert list_texts(rule.make_pairs(prompt, judgments)) == [("a", "b")]


def test_all_pairs_makes_every_pair_with_different_scores() -> None:
    result = apply_rule("all_pairs", {"a": 3, "b": 9, "c": 3, "d": 5})
    assert set(list_texts(result)) == {("b", "a"), ("b", "c"), ("b", "d"), ("d", "a"), ("d", "c")}
    assert result.dropped == {"tied": 1}


def test_all_pairs_compares_each_two_texts_once() -> None:
    rule, prompt = make_rule(RuleSpec("all_pairs")), make_sampled("a", "b", "a", "b", "a")
    judgments = [
        make_judgment(c, 5.0 if c.responses[0] == "a" else 2.0) for c in rule.make_comparisons(prompt, "general")
    ]
    assert rule.make_pairs(prompt, judgments).dropped == {}
    assert list_texts(rule.make_pairs(prompt, judgments)) == [("a", "b")]


def test_best_judgment_of_a_repeated_answer_counts() -> None:
    prompt = make_sampled("a", "b", "a")
    judgments = [make_judgment(Comparison(f"q1/{i}", ROW.prompt, ("",)), score) for i, score in enumerate((2, 5, 9))]
    (pair,) = make_rule(RuleSpec("all_pairs")).make_pairs(prompt, judgments).pairs
    assert (pair.chosen.text, pair.chosen.score, pair.rejected.text, pair.rejected.score) == ("a", 9, "b", 5)


def test_pair_records_its_provenance() -> None:
    rule = make_rule(RuleSpec("highest_lowest"))
    prompt = make_sampled("a", "b", temperatures=[0.7, 1.1], cut=[False, True])
    good, bad = rule.make_comparisons(prompt, "general")
    (pair,) = rule.make_pairs(
        prompt, [make_judgment(bad, 1, 2, 5, expected=2.5), make_judgment(good, 5, 5, None, expected=4.5)]
    ).pairs
    assert (pair.rule, pair.rubric, pair.judge, pair.policy) == ("highest_lowest", "general", "judge@1", "policy@1")
    assert (pair.chosen.score, pair.chosen.expected, pair.chosen.temperature, pair.chosen.cut) == (5, 4.5, 0.7, False)
    assert (pair.rejected.index, pair.rejected.cut, pair.rejected.reasoning) == (1, True, "I think 1")
    assert pair.votes == 5
    assert pair.margin == pytest.approx(5 - 8 / 3, abs=1e-6)
    assert pair.disagreement == pytest.approx(1 / 6)  # two of six vote combinations are ties


def test_ties_are_broken_by_seed_and_not_by_position() -> None:
    answers: dict[str, float | None] = {"a": 5, "b": 5, "c": 5, "d": 1}
    chosen = {seed: list_texts(apply_rule("highest_lowest", answers, seed=seed))[0][0] for seed in range(20)}
    assert set(chosen.values()) == {"a", "b", "c"}
    for seed, first in chosen.items():
        reversed_answers = dict(reversed(answers.items()))
        assert list_texts(apply_rule("highest_lowest", reversed_answers, seed=seed)) == [(first, "d")]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(POINTWISE_RULES),
    st.dictionaries(st.sampled_from("abcdefgh"), st.none() | st.integers(1, 4), max_size=8),
    st.randoms(use_true_random=False),
)
def test_result_does_not_depend_on_the_order_of_answers(
    name: str, answers: dict[str, float | None], shuffler: random.Random
) -> None:
    random.seed(shuffler.random())
    names = list(answers)
    shuffler.shuffle(names)
    original, shuffled = apply_rule(name, answers), apply_rule(name, {name: answers[name] for name in names})
    assert set(list_texts(original)) == set(list_texts(shuffled))
    assert original.dropped == shuffled.dropped
    assert set(original.dropped) <= set(DROP_REASONS)
    for pair in original.pairs:
        assert pair.chosen.score > pair.rejected.score
        assert pair.chosen.text != pair.rejected.text


# The rule two_temperatures


def make_verdict(low: float | None, high: float | None, order: tuple[int, ...]) -> Verdict:
    if low is None or high is None:
        return Verdict(Status.UNPARSEABLE, order=order)
    return Verdict(Status.OK, (low, high), order=order, reasoning="because")


def apply_two_temperatures(
    *rounds: Sequence[Verdict], winner: str = "low", answers: tuple[str, ...] = ("high", "low")
) -> PairResult:
    """Apply the rule to one answer per temperature; votes list the answer of the lower temperature first."""
    rule = make_rule(RuleSpec("two_temperatures", winner=winner))
    prompt = make_sampled(*answers, temperatures=[HIGH, LOW])
    (comparison,) = rule.make_comparisons(prompt, "general")
    assert comparison.responses == ("low", "high")
    return rule.make_pairs(prompt, [combine_votes(comparison.id, rounds, model="judge@1")])


def test_chooses_the_answer_that_wins_in_both_orders() -> None:
    result = apply_two_temperatures([make_verdict(8, 4, AS_GIVEN), make_verdict(6, 5, SWAPPED)])
    (pair,) = result.pairs
    assert list_texts(result) == [("low", "high")]
    assert (pair.chosen.temperature, pair.rejected.temperature) == (LOW, HIGH)
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
def test_makes_no_pair_without_a_win_in_both_orders(
    votes: list[tuple[float | None, float | None]], reason: str
) -> None:
    assert apply_two_temperatures(
        [make_verdict(*votes[0], AS_GIVEN), make_verdict(*votes[1], SWAPPED)]
    ) == PairResult.without_pairs(reason)


@pytest.mark.parametrize(
    ("winner", "is_kept"), [("low", [False, True]), ("high", [True, False]), ("either", [True] * 2)]
)
def test_winning_temperature_is_a_setting(winner: str, is_kept: list[bool]) -> None:
    high_wins = apply_two_temperatures([make_verdict(2, 9, AS_GIVEN), make_verdict(3, 9, SWAPPED)], winner=winner)
    low_wins = apply_two_temperatures([make_verdict(9, 2, AS_GIVEN), make_verdict(9, 3, SWAPPED)], winner=winner)
    assert list_texts(high_wins) == [("high", "low")] * is_kept[0]
    assert list_texts(low_wins) == [("low", "high")] * is_kept[1]


def test_majority_of_each_order_counts() -> None:
    good, bad = make_verdict(8, 4, AS_GIVEN), make_verdict(4, 6, AS_GIVEN)
    result = apply_two_temperatures(
        [good, make_verdict(7, 4, SWAPPED)], [bad, make_verdict(7, 4, SWAPPED)], [good, make_verdict(5, 5, SWAPPED)]
    )
    assert list_texts(result) == [("low", "high")]
    assert (result.pairs[0].votes, result.pairs[0].disagreement) == (6, 0.25)
    assert apply_two_temperatures(
        [good, make_verdict(7, 4, SWAPPED)], [bad, make_verdict(7, 4, SWAPPED)]
    ) == PairResult.without_pairs("tied")


def test_makes_no_pair_if_the_mean_scores_contradict_the_majority() -> None:
    votes = (
        [make_verdict(5, 4, AS_GIVEN), make_verdict(5, 4, SWAPPED)],
        [make_verdict(5, 4, AS_GIVEN), make_verdict(5, 4, SWAPPED)],
    )
    assert apply_two_temperatures(
        *votes, [make_verdict(1, 10, AS_GIVEN), make_verdict(1, 10, SWAPPED)]
    ) == PairResult.without_pairs("tied")


def test_rejects_judgments_in_a_single_order() -> None:
    with pytest.raises(UsageError, match=r"'q1/1-0' was judged in one order only; judge with order 'both'"):
        apply_two_temperatures([make_verdict(8, 4, AS_GIVEN)])


@pytest.mark.parametrize("temperatures", [[0.8, 0.8], [0.8, 1.0, 1.2], []])
def test_requires_exactly_two_temperatures(temperatures: list[float]) -> None:
    prompt = replace(make_sampled("a", "b", "c"), temperatures=tuple(temperatures))
    with pytest.raises(UsageError, match="rule two_temperatures needs answers sampled at exactly two temperatures"):
        make_rule(RuleSpec("two_temperatures")).make_comparisons(prompt, "general")


def test_checks_temperatures_before_sampling() -> None:
    make_rule(RuleSpec("two_temperatures")).check_temperatures([0.8, 1.2])
    make_rule(RuleSpec("all_pairs")).check_temperatures([1.0, 1.0])
    with pytest.raises(
        UsageError, match="rule two_temperatures needs answers sampled at exactly two temperatures, got: 1"
    ):
        make_rule(RuleSpec("two_temperatures")).check_temperatures([1.0, 1.0])
    with pytest.raises(UsageError, match="rule highest_lowest needs at least 2 answers per prompt, got 1"):
        make_rule(RuleSpec("highest_lowest")).check_temperatures([1.0])


@pytest.mark.parametrize(
    ("answers", "reason"), [(("a", "a "), "equal_text"), (("a b", "a\u00a0 b"), "equal_text"), (("a", ""), "empty")]
)
def test_two_temperatures_judges_nothing_if_the_answers_are_equal(answers: tuple[str, str], reason: str) -> None:
    rule, prompt = make_rule(RuleSpec("two_temperatures")), make_sampled(*answers, temperatures=[LOW, HIGH])
    assert rule.make_comparisons(prompt, "general") == []
    assert rule.make_pairs(prompt, []) == PairResult.without_pairs(reason)


@pytest.mark.parametrize("name", RULES)
async def test_every_rule_works_with_a_judge_model(name: str) -> None:
    rule = make_rule(RuleSpec(name, winner="either"))
    judge = FlexJudge(ScriptedEngine(fair_judge), replace(SETTINGS, order=rule.order))
    prompt = make_sampled("five", "six", temperatures=[LOW, HIGH])
    judgments = [await judge.ajudge(comparison) for comparison in rule.make_comparisons(prompt, "general")]
    (pair,) = rule.make_pairs(prompt, judgments).pairs
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
def test_rejects_invalid_settings(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RuleSpec(**values)  # type: ignore[arg-type]
