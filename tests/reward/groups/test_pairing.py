"""Plans of pairings: who meets whom, for every order of arrival and of the ends of matches."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import Judgment, Status
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.pairing import PLANNED_METHODS, Pair, Roster, make_plan


def make_digest(member: int) -> str:
    return hashlib.sha256(str(member).encode()).hexdigest()


def make_match(pair: Pair, problem: str = "") -> Match:
    """Make a match that the member with the higher number wins."""
    if problem:
        return Match(pair[:1], None, problems=(problem,))
    scores = (float(pair[0]), float(pair[1]))
    return Match(pair, Judgment("", Status.OK, scores, scores, "", preferred=int(pair[1] > pair[0])))


class Tournament:
    """Group of members that arrive in batches; its matches end in random order."""

    def __init__(self, method: str, random: Random, invalid: Sequence[int] = ()) -> None:
        self.problems: dict[int, str] = {}
        self.roster, self.plan = Roster(self.problems), make_plan(method)
        self.random, self.invalid = random, invalid
        self.pairs: list[Pair] = []
        self.running: list[Pair] = []

    def add_members(self, members: Sequence[int]) -> None:
        self.roster.digests |= {member: make_digest(member) for member in members}
        self.roster.order += sorted(members, key=make_digest)
        self.start_matches()

    def start_matches(self) -> None:
        for pair in self.plan.list_pairs(self.roster):
            if pair not in self.roster.pairs:
                assert self.problems.keys().isdisjoint(pair)
                self.roster.start(pair)
                self.pairs.append(pair)
                self.running.append(pair)

    def end_matches(self, most: int) -> None:
        for _ in range(most):
            if not self.running:
                return
            pair = self.running.pop(self.random.randrange(len(self.running)))
            guilty = next((member for member in pair if member in self.invalid), None)
            if guilty is not None:
                self.problems[guilty] = "cannot be judged"
            self.roster.finish(pair, make_match(pair, "" if guilty is None else "cannot be judged"))
            self.start_matches()

    def play_to_end(self) -> list[Pair]:
        self.roster.closed = True
        self.start_matches()
        self.end_matches(10_000)
        return self.pairs


def play_tournament(
    method: str, batches: Sequence[Sequence[int]], random: Random, invalid: Sequence[int] = ()
) -> Tournament:
    tournament = Tournament(method, random, invalid)
    for batch in batches:
        tournament.add_members(batch)
        tournament.end_matches(random.randint(0, 5))
    tournament.play_to_end()
    return tournament


def split_randomly(count: int, random: Random) -> list[list[int]]:
    members = random.sample(range(count), count)
    ends = sorted(random.choices(range(count + 1), k=random.randint(0, 4)))
    return [members[a:b] for a, b in zip([0, *ends], [*ends, count], strict=True)]


randoms = st.randoms(use_true_random=False)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 12), randoms)
def test_round_robin_has_the_same_pairs_and_positions_for_every_order_of_arrival(count: int, random: Random) -> None:
    whole = play_tournament("round_robin", [range(count)], random)
    split = play_tournament("round_robin", split_randomly(count, random), random)
    assert set(whole.pairs) == set(split.pairs)
    assert {frozenset(pair) for pair in split.pairs} == {frozenset(pair) for pair in combinations(range(count), 2)}
    assert len(split.pairs) == count * (count - 1) // 2


def list_pairs(members: Sequence[int]) -> list[Pair]:
    tournament = Tournament("round_robin", Random(0))
    tournament.add_members(members)
    return tournament.pairs


def test_each_member_of_a_round_robin_is_first_in_about_half_of_its_matches() -> None:
    shares = [count / 63 for count in Counter(first for first, _ in list_pairs(range(64))).values()]
    assert len(shares) == 64
    assert 0.3 < min(shares) < max(shares) < 0.7
    # The shares vary more in small groups, but neither early nor late members are first more often.
    firsts = Counter(first % 4 for start in range(0, 4000, 4) for first, _ in list_pairs(range(start, start + 4)))
    assert all(abs(firsts[place] / 3000 - 0.5) < 0.05 for place in range(4))


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 12), randoms)
def test_circular_has_each_member_once_first_and_once_second(count: int, random: Random) -> None:
    pairs = play_tournament("circular", split_randomly(count, random), random).pairs
    assert Counter(first for first, _ in pairs) == Counter(second for _, second in pairs) == Counter(range(count))


def test_circular_compares_each_new_member_with_the_one_before() -> None:
    tournament = Tournament("circular", Random(0))
    for member in (7, 3, 5):
        tournament.add_members([member])
    assert tournament.pairs == [(7, 3), (3, 5)]
    assert tournament.play_to_end() == [(7, 3), (3, 5), (5, 7)]


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 20), randoms)
def test_swiss_has_a_match_of_each_member_in_each_round(count: int, random: Random) -> None:
    tournament = play_tournament("swiss", split_randomly(count, random), random)
    rounds, played = (count - 1).bit_length(), Counter(member for pair in tournament.pairs for member in pair)
    assert len({frozenset(pair) for pair in tournament.pairs}) == len(tournament.pairs)
    assert min(played.values()) >= rounds
    assert len(tournament.pairs) <= count * (rounds + 1) / 2
    if count == 2**rounds:
        assert set(played.values()) == {rounds}
        # Nobody beats the best member, and all members but one lose a match.
        losers = {min(pair) for pair in tournament.pairs}
        assert losers == set(range(count - 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 20), randoms)
def test_swiss_pairings_do_not_depend_on_the_order_in_which_matches_end(count: int, random: Random) -> None:
    plays = [play_tournament("swiss", [range(count)], random) for _ in range(3)]
    assert len({frozenset(play.pairs) for play in plays}) == 1


def test_swiss_positions_are_balanced() -> None:
    for count in (8, 16, 32):
        pairs = play_tournament("swiss", [range(count)], Random(0)).pairs
        balance = Counter(first for first, _ in pairs)
        balance.subtract(second for _, second in pairs)
        assert max(map(abs, balance.values())) <= 2


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(PLANNED_METHODS), st.integers(2, 12), st.sets(st.integers(0, 11), max_size=3), randoms)
def test_valid_members_meet_each_other_if_some_cannot_be_judged(
    method: str, count: int, invalid: set[int], random: Random
) -> None:
    tournament = play_tournament(method, split_randomly(count, random), random, sorted(invalid))
    valid = set(range(count)) - invalid
    played = Counter(member for pair in tournament.pairs if valid.issuperset(pair) for member in pair)
    if len(valid) > 1:
        needed = {"round_robin": len(valid) - 1, "circular": 2, "swiss": (len(valid) - 1).bit_length()}[method]
        assert all(played[member] >= needed for member in valid)


@pytest.mark.parametrize(("method", "before_the_last"), [("round_robin", 21), ("circular", 6), ("swiss", 5)])
def test_few_matches_remain_for_the_last_member(method: str, before_the_last: int) -> None:
    tournament = Tournament(method, Random(0))
    for member in range(7):
        tournament.add_members([member])
        tournament.end_matches(100)
    assert len(tournament.pairs) == before_the_last
    tournament.add_members([7])
    assert len(tournament.play_to_end()) == {"round_robin": 28, "circular": 8, "swiss": 12}[method]


def test_a_large_swiss_tournament_has_few_matches() -> None:
    assert len(play_tournament("swiss", [range(256)], Random(0)).pairs) == 256 * 8 // 2
