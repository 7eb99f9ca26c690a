"""Voting: combination of votes, early stopping, and reading orders."""

from __future__ import annotations

import itertools
import math
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, Usage, Verdict
from flex_judge.judges.protocol.voting import (
    ORDERS,
    VOTE_CONFIDENCE,
    Outcome,
    VoteTally,
    combine_votes,
    compute_change_probability,
    plan_next_wave,
    plan_orders,
)

OPTIONS = ("A>B", "B>A", "A=B=Good", "A=B=Bad")
SHARES = {"A>B": (1.0, 0.0), "B>A": (0.0, 1.0)}


def vote(*scores: float, **fields: object) -> Verdict:
    return Verdict(Status.OK, scores, **fields)  # type: ignore[arg-type]


def make_option_vote(option: str) -> Verdict:
    return Verdict(Status.OK, SHARES.get(option, (0.5, 0.5)), choice=option, reasoning=option)


def make_failed_vote(status: Status = Status.UNPARSEABLE) -> Verdict:
    return Verdict(status, reasoning=f"it was {status}")


A, B, TIE = vote(8, 3, reasoning="A it is"), vote(2, 7, reasoning="B it is"), vote(5, 5, reasoning="level")


def combine_single_votes(*votes: Verdict) -> Judgment:
    return combine_votes("c", [[v] for v in votes])


def make_vote_for(outcome: Outcome, responses: int) -> Verdict:
    """Make a verdict with the given outcome, for a number of responses or for options."""
    if isinstance(outcome, str):
        return make_option_vote(outcome)
    return vote(*(9.0 if k == outcome else 4.0 for k in range(responses)))


def tally(*counts: int, cast: int | None = None) -> VoteTally:
    """Make a tally from the votes for each response, with ties last."""
    return VoteTally((*range(len(counts) - 1), None), counts, sum(counts) if cast is None else cast)


def test_response_with_most_votes_wins() -> None:
    assert combine_single_votes(A, B, A).preferred == 0
    assert combine_single_votes(B, TIE, B).preferred == 1
    assert combine_single_votes(vote(1, 2, 9), vote(1, 2, 8), vote(9, 2, 1)).preferred == 2


@pytest.mark.parametrize(
    "votes", [(A, TIE, TIE), (A, B), (A, TIE), (A, B, TIE), (A, A, B, B, TIE), (TIE,), (A, A, TIE, TIE)]
)
def test_equal_votes_are_a_tie(votes: tuple[Verdict, ...]) -> None:
    judgment = combine_single_votes(*votes)
    assert judgment.status == Status.OK
    assert judgment.preferred is None


def test_one_high_score_does_not_outvote_two_low_ones() -> None:
    judgment = combine_single_votes(vote(10, 1), vote(5, 6), vote(5, 6))
    assert judgment.preferred == 1
    assert judgment.scores == pytest.approx((20 / 3, 13 / 3))


def test_scores_are_means_of_scored_votes() -> None:
    assert combine_single_votes(vote(4.0), make_failed_vote(), vote(3.0), make_failed_vote(Status.TIMEOUT)).scores == (
        3.5,
    )


def test_expected_scores_need_every_scored_vote_to_have_them() -> None:
    provenance, unknown = vote(4.0, expected_scores=(3.5,)), vote(4.0)
    assert combine_single_votes(provenance, make_failed_vote(), vote(2.0, expected_scores=(2.5,))).expected_scores == (
        3.0,
    )
    assert combine_single_votes(provenance, unknown).expected_scores is None
    assert combine_single_votes(make_failed_vote()).expected_scores is None


def test_unscored_status_is_the_most_common_then_the_first() -> None:
    lost, late = make_failed_vote(Status.ENGINE_LOST), make_failed_vote(Status.TIMEOUT)
    assert combine_single_votes(lost, late, late).status == Status.TIMEOUT
    judgment = combine_single_votes(lost, late, late, lost)
    assert judgment.status == Status.ENGINE_LOST
    assert judgment.reasoning == lost.reasoning
    assert (judgment.scores, judgment.preferred, judgment.choice, judgment.spread) == (None, None, None, None)


def test_one_scored_vote_makes_the_judgment_ok() -> None:
    judgment = combine_single_votes(make_failed_vote(), make_failed_vote(), B)
    assert (judgment.status, judgment.preferred, judgment.reasoning) == (Status.OK, 1, "B it is")


def test_reasoning_is_from_the_first_vote_for_the_outcome() -> None:
    assert combine_single_votes(make_failed_vote(), B, A, A).reasoning == "A it is"
    assert combine_single_votes(A, TIE, TIE).reasoning == "level"
    assert combine_single_votes(make_failed_vote(), B, A).reasoning == "B it is"  # no vote for a tie
    assert combine_single_votes(make_failed_vote(), vote(3.0, reasoning="fair"), vote(4.0)).reasoning == "fair"


def test_option_with_most_votes_wins_and_sets_the_preference() -> None:
    judgment = combine_single_votes(make_option_vote("B>A"), make_option_vote("A=B=Bad"), make_option_vote("B>A"))
    assert (judgment.choice, judgment.preferred, judgment.reasoning) == ("B>A", 1, "B>A")
    assert judgment.scores == pytest.approx((1 / 6, 5 / 6))
    both_bad = combine_single_votes(
        make_option_vote("A=B=Bad"), make_option_vote("A>B"), make_option_vote("A=B=Bad"), make_option_vote("A=B=Good")
    )
    assert (both_bad.choice, both_bad.preferred, both_bad.reasoning) == ("A=B=Bad", None, "A=B=Bad")


def test_tied_options_choose_nothing() -> None:
    judgment = combine_single_votes(make_option_vote("A>B"), make_option_vote("A=B=Bad"))
    assert (judgment.choice, judgment.preferred, judgment.reasoning) == (None, None, "A>B")


def test_spread_adds_variance_within_and_between_votes() -> None:
    votes = [vote(4.0, expected_scores=(e,), deviations=(d,)) for e, d in ((3.0, 0.5), (5.0, 1.5))]
    within, between = (0.5**2 + 1.5**2) / 2, 1.0
    assert combine_single_votes(*votes).spread == pytest.approx((math.sqrt(within + between),))
    assert combine_single_votes(votes[1], make_failed_vote()).spread == pytest.approx((1.5,))


def test_without_distributions_spread_is_between_votes_only() -> None:
    assert combine_single_votes(vote(3.0, 2.0), vote(5.0, 2.0)).spread == pytest.approx((1.0, 0.0))
    assert combine_single_votes(
        vote(3.0, expected_scores=(3.5,)), vote(3.0, expected_scores=(4.5,))
    ).spread == pytest.approx((0.5,))
    assert combine_single_votes(vote(3.0), make_failed_vote()).spread is None


def test_disagreement_is_the_share_of_rounds_with_conflicting_orders() -> None:
    rounds = [[A, A], [A, B], [A, TIE], [B, B], [A, make_failed_vote()], [make_failed_vote(), make_failed_vote()]]
    assert combine_votes("c", rounds).disagreement == pytest.approx(2 / 4)
    assert combine_votes("c", [[make_option_vote("A=B=Bad"), make_option_vote("A=B=Good")]]).disagreement == 0.0


def test_disagreement_is_none_without_a_multi_order_round() -> None:
    assert combine_single_votes(A, B).disagreement is None
    assert combine_votes("c", [[A, make_failed_vote()]]).disagreement is None


def test_judgment_keeps_all_votes_and_the_callers_fields() -> None:
    rounds = [[A, B], [make_failed_vote(), TIE]]
    judgment = combine_votes("c", rounds, usage=Usage(5, 3, 2), model="judge", provenance={"rubric": "general"})
    assert judgment.votes == (A, B, rounds[1][0], TIE)
    assert (judgment.id, judgment.usage.generated_tokens, judgment.model) == ("c", 2, "judge")
    assert Judgment.from_json(judgment.to_json()) == judgment


def test_no_votes_raise_a_value_error() -> None:
    with pytest.raises(ValueError, match="no vote"):
        combine_votes("c", [[]])


scores = st.integers(1, 10).map(float)
pair_votes = st.lists(
    st.one_of(
        st.builds(
            lambda a, b, e: vote(a, b, expected_scores=(e, 10 - e), deviations=(e / 7, 1.0)), scores, scores, scores
        ),
        st.sampled_from([make_failed_vote(), make_failed_vote(Status.TIMEOUT)]),
    ),
    min_size=1,
    max_size=9,
)


@given(pair_votes, st.randoms())
def test_order_of_votes_does_not_matter(votes: list[Verdict], random: random.Random) -> None:
    mixed = random.sample(votes, len(votes))
    for name in ("preferred", "scores", "expected_scores", "spread"):
        assert getattr(combine_single_votes(*votes), name) == getattr(combine_single_votes(*mixed), name)


@given(pair_votes)
def test_unscored_votes_change_nothing(votes: list[Verdict]) -> None:
    scored = [v for v in votes if v.scores is not None]
    if scored:
        assert combine_single_votes(*votes) == replace(combine_single_votes(*scored), votes=tuple(votes))


@given(pair_votes)
def test_judging_the_swapped_comparison_swaps_the_judgment(votes: list[Verdict]) -> None:
    other_process, back = (
        combine_single_votes(*votes),
        combine_single_votes(*(v.swap_responses() if v.scores else v for v in votes)),
    )
    assert back.preferred == (None if other_process.preferred is None else 1 - other_process.preferred)
    assert back.scores == (other_process.scores and other_process.scores[::-1])


# Early stopping


def test_tally_counts_scored_votes_by_outcome_and_all_cast_votes() -> None:
    assert VoteTally.from_votes([A, B, make_failed_vote(), A, TIE], responses=2) == VoteTally(
        (0, 1, None), (2, 1, 1), 5
    )
    assert VoteTally.from_votes([make_option_vote("B>A"), make_failed_vote()], 2, OPTIONS) == VoteTally(
        OPTIONS, (0, 1, 0, 0), 2
    )
    assert VoteTally.from_votes([vote(4.0), vote(5.0)], responses=1) == VoteTally((), (), 2)


def test_vote_for_an_unknown_outcome_is_rejected() -> None:
    with pytest.raises(ValueError, match="'C>B' is not one of the outcomes"):
        VoteTally.from_votes([make_option_vote("C>B")], 2, OPTIONS)


def test_confidence_1_on_a_pair_starts_with_a_bare_majority() -> None:
    assert plan_next_wave(tally(0, 0, 0), 15, confidence=1.0) == 8
    assert plan_next_wave(tally(8, 0, 0), 15, confidence=1.0) == 0
    assert plan_next_wave(tally(7, 1, 0), 15, confidence=1.0) == 1
    assert plan_next_wave(tally(7, 0, 1), 15, confidence=1.0) == 1
    assert plan_next_wave(tally(2, 0, 6), 15, confidence=1.0) == 2


def test_lower_confidence_stops_earlier() -> None:
    waves = [plan_next_wave(tally(0, 0, 0), 15, confidence) for confidence in (0.9, 0.95, 0.98, 1.0)]
    assert waves == [3, 4, 5, 8]
    assert plan_next_wave(tally(4, 0, 0), 15) == 0


def test_one_vote_is_one_wave() -> None:
    assert plan_next_wave(tally(0, 0, 0), 1) == 1
    assert plan_next_wave(tally(1, 0, 0), 1) == 0


def test_all_votes_on_a_single_score_are_one_wave() -> None:
    assert plan_next_wave(VoteTally.from_votes([], responses=1), 7) == 7
    assert plan_next_wave(VoteTally.from_votes([vote(3.0), make_failed_vote()], responses=1), 7) == 5


def test_unscored_votes_count_toward_the_total_only() -> None:
    assert plan_next_wave(tally(0, 0, 0, cast=3), 5, confidence=0.01) == 1
    assert plan_next_wave(tally(0, 0, 0, cast=5), 5) == 0
    assert plan_next_wave(tally(2, 0, 0, cast=3), 4, confidence=1.0) == 0


@pytest.mark.parametrize(("total", "confidence"), [(0, 0.9), (3, 0.0), (3, 1.01), (3, float("nan"))])
def test_invalid_settings_are_rejected(total: int, confidence: float) -> None:
    with pytest.raises(UsageError, match="must be"):
        plan_next_wave(tally(0, 0, 0), total, confidence)


def enumerate_change_probability(tally: VoteTally, remaining: int) -> float:
    """Compute the change probability over every sequence of votes of a Polya urn."""
    compute_changed_mass = 0.0
    for sequence in itertools.product(range(len(tally.counts)), repeat=remaining):
        counts, chance = list(tally.counts), 1.0
        for probability in sequence:
            chance *= (counts[probability] + 1) / (sum(counts) + len(counts))
            counts[probability] += 1
        compute_changed_mass += chance * (VoteTally(tally.outcomes, tuple(counts), 0).decision != tally.decision)
    return compute_changed_mass


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 4), min_size=3, max_size=5).filter(any), st.integers(0, 4), st.booleans())
def test_change_probability_matches_enumeration(counts: list[int], remaining: int, options: bool) -> None:
    outcomes: tuple[Outcome, ...] = (*"wxyz?"[: len(counts)],) if options else (*range(len(counts) - 1), None)
    now = VoteTally(outcomes, tuple(counts), sum(counts))
    assert compute_change_probability(now, remaining) == pytest.approx(enumerate_change_probability(now, remaining))


def test_change_probability_is_0_without_votes_left_and_1_before_the_first() -> None:
    assert compute_change_probability(tally(3, 2, 1), 0) == 0.0
    assert compute_change_probability(tally(0, 0, 0), 0) == 0.0
    assert compute_change_probability(tally(0, 0, 0), 5) == 1.0


def decide(stream: Sequence[Verdict], responses: int, options: Sequence[str], confidence: float) -> tuple[Verdict, ...]:
    votes: tuple[Verdict, ...] = ()
    while wave := plan_next_wave(VoteTally.from_votes(votes, responses, options), len(stream), confidence):
        assert len(votes) + wave <= len(stream)
        votes = tuple(stream[: len(votes) + wave])
    return votes


@st.composite
def generate_vote_streams(draw: st.DrawFn) -> tuple[list[Verdict], int, tuple[str, ...]]:
    """Generate all votes of a comparison, its number of responses and its options; skewed, so that some end early."""
    options = OPTIONS if draw(st.booleans()) else ()
    responses = 2 if options else draw(st.integers(2, 5))
    outcomes: tuple[Outcome, ...] = options or (*range(responses), None)
    few = draw(st.lists(st.sampled_from(outcomes), min_size=1, max_size=3))
    kinds = st.sampled_from([make_vote_for(o, responses) for o in few] + [make_failed_vote()])
    return draw(st.lists(kinds, min_size=1, max_size=20)), responses, options


@settings(deadline=None)
@given(generate_vote_streams())
def test_confidence_1_always_decides_like_all_votes(case: tuple[list[Verdict], int, tuple[str, ...]]) -> None:
    stream, responses, options = case
    early, full = combine_single_votes(*decide(stream, responses, options, 1.0)), combine_single_votes(*stream)
    assert (early.status, early.preferred, early.choice) == (full.status, full.preferred, full.choice)


@settings(deadline=None)
@given(generate_vote_streams(), st.sampled_from([0.8, VOTE_CONFIDENCE, 1.0]))
def test_no_vote_of_a_wave_is_redundant(case: tuple[list[Verdict], int, tuple[str, ...]], confidence: float) -> None:
    """A tie is the exception: it may be decided one vote earlier than the response that a wave waits for."""
    stream, responses, options = case
    votes = len(decide(stream, responses, options, confidence))
    for fewer in range(votes):
        now = VoteTally.from_votes(stream[:fewer], responses, options)
        assert plan_next_wave(now, len(stream), confidence) > 0 or now.decision is None


@settings(deadline=None)
@given(generate_vote_streams(), st.sampled_from([0.8, VOTE_CONFIDENCE, 1.0]))
def test_voting_stops_only_if_a_change_is_unlikely(
    case: tuple[list[Verdict], int, tuple[str, ...]], confidence: float
) -> None:
    stream, responses, options = case
    votes = decide(stream, responses, options, confidence)
    left = len(stream) - len(votes)
    assert compute_change_probability(VoteTally.from_votes(votes, responses, options), left) <= 1 - confidence


def test_default_confidence_keeps_98_percent_of_decisions() -> None:
    """Sums over every possible course of the votes, as a Polya urn."""

    @cache
    def compute_changed_mass(counts: tuple[int, ...], until: int) -> float:
        if sum(counts) == until:
            wave = plan_next_wave(tally(*counts), 15)
            if not wave:
                return compute_change_probability(tally(*counts), 15 - until)
            until += wave
        grown = [(n, (*counts[:i], n + 1, *counts[i + 1 :])) for i, n in enumerate(counts)]
        return sum((n + 1) * compute_changed_mass(more, until) for n, more in grown) / (sum(counts) + len(counts))

    assert compute_changed_mass((0, 0, 0), 0) < 0.02


def test_many_votes_on_many_responses_are_fast() -> None:
    assert 1 <= plan_next_wave(tally(*[0] * 17), 64) < 20
    assert 0 < compute_change_probability(tally(9, 8, 7, *[1] * 14), 26) < 1


# Orders


def test_each_order_policy_gives_its_orders() -> None:
    assert plan_orders(3, "as_given") == ((0, 1, 2),)
    assert plan_orders(3, "both") == ((0, 1, 2), (2, 1, 0))
    assert plan_orders(3, "rotations") == ((0, 1, 2), (1, 2, 0), (2, 0, 1))
    assert plan_orders(2, "both") == plan_orders(2, "rotations") == ((0, 1), (1, 0))


@pytest.mark.parametrize("how", ORDERS)
def test_single_response_has_one_order(how: str) -> None:
    assert plan_orders(1, how) == ((0,),)


def test_unknown_order_policy_is_rejected_by_name() -> None:
    with pytest.raises(UsageError, match="order 'sideways' does not exist; choose one of as_given, random"):
        plan_orders(2, "sideways")


@given(st.integers(1, 8), st.sampled_from(ORDERS), st.integers(0, 20), st.text(max_size=8))
def test_orders_are_permutations_and_the_same_each_time(responses: int, how: str, round: int, key: str) -> None:
    found = plan_orders(responses, how, round, key)
    assert all(sorted(order) == list(range(responses)) for order in found)
    assert len(set(found)) == len(found)
    assert found == plan_orders(responses, how, round, key)


def test_random_orders_vary_by_round_and_key_without_bias() -> None:
    firsts = Counter(plan_orders(2, "random", number, key)[0][0] for number in range(100) for key in ("a", "b"))
    assert firsts[0] == pytest.approx(100, abs=30)
    one, other = ([plan_orders(4, "random", number, key) for number in range(9)] for key in ("a", "b"))
    assert len(set(one)) > 4
    assert one != other


def test_random_orders_are_the_same_in_another_process() -> None:
    code = (
        "from flex_judge.judges.protocol.voting import plan_orders; "
        "print([plan_orders(5, 'random', r, 'key') for r in range(5)])"
    )
    env = {"PYTHONHASHSEED": "77"}
    other_process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
    ).stdout
    assert other_process.strip() == str([plan_orders(5, "random", r, "key") for r in range(5)])
