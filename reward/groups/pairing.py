"""Plans of pairings: which members of a group meet, and who is first in the judge's prompt.

A plan lists the pairs that can start with the members present so far. It is asked again when a member arrives, when a
match ends, and when no more members are to come. All functions are free of clocks and engines.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flex_judge.reward.groups.match import Match

PLANNED_METHODS = ("round_robin", "circular", "swiss")
"""Methods whose pairs are planned while members are missing."""
Pair = tuple[int, int]
"""Two members; the first one takes the first position."""


@dataclass
class Record:
    """Results of one member so far."""

    opponents: set[int] = field(default_factory=set)
    """Members in its matches that have started."""
    played: int = 0
    """Number of matches that ended, with or without a verdict."""
    points: float = 0.0
    """Sum of its outcomes; a match without a verdict counts as a tie."""
    margins: list[float] = field(default_factory=list)
    """Score differences of its matches."""
    balance: int = 0
    """Number of matches in the first position, minus the number in the second."""

    @property
    def standing(self) -> tuple[float, float]:
        """Sort key of the member: its win rate, then its mean margin. A member without a match is average."""
        margin = math.fsum(self.margins) / len(self.margins) if self.margins else 0.0
        return (self.points + 0.5) / (self.played + 1), margin


@dataclass
class Roster:
    """Members of a group that are to be paired, with the matches so far."""

    problems: Mapping[int, str]
    """Members that cannot be judged, or whose callers gave up; they meet nobody."""
    late: frozenset[int] = frozenset()
    """Latecomers: if there are any, only pairs that include one are planned."""
    order: list[int] = field(default_factory=list)
    """All members by time of arrival; members that arrived together are ordered by their digests."""
    digests: dict[int, str] = field(default_factory=dict)
    """Digest of prompt and response of each member."""
    records: defaultdict[int, Record] = field(default_factory=lambda: defaultdict(Record))
    pairs: dict[Pair, Match | None] = field(default_factory=dict)
    """Pairs that have started, with their match once it has ended."""
    closed: bool = False
    """Whether no more members are to come."""

    @property
    def valid(self) -> list[int]:
        """Members that can be judged, as far as known, in order."""
        return [member for member in self.order if member not in self.problems]

    def start(self, pair: Pair) -> None:
        """Record that the match of a pair has started."""
        self.pairs[pair] = None
        for member, opponent, step in ((*pair, 1), (*reversed(pair), -1)):
            self.records[member].opponents.add(opponent)
            self.records[member].balance += step

    def finish(self, pair: Pair, match: Match) -> None:
        """Record the match of a pair. A match with a member that cannot be judged counts for nobody."""
        self.pairs[pair] = match
        if match.problems:
            return
        outcome = match.get_outcome(0, 1)
        scores = None if match.identical else match.best_scores
        for member, points, sign in ((pair[0], outcome, 1), (pair[1], None if outcome is None else 1 - outcome, -1)):
            record = self.records[member]
            record.played += 1
            record.points += 0.5 if points is None else points
            if scores is not None:
                record.margins.append(sign * (scores[0] - scores[1]))

    def drop_pairs(self, member: int) -> list[Pair]:
        """Forget all pairs of a member, as if its matches had not taken place; returns them."""
        dropped = [pair for pair in self.pairs if member in pair]
        pairs = {pair: match for pair, match in self.pairs.items() if member not in pair}
        self.pairs.clear()
        self.records.clear()
        for pair, match in pairs.items():
            self.start(pair)
            if match is not None:
                self.finish(pair, match)
        return dropped

    def is_settled(self, pair: Pair) -> bool:
        """Whether the match of a pair has ended, or cannot take place."""
        return self.pairs.get(pair) is not None or not self.problems.keys().isdisjoint(pair)

    def orient_pair(self, a: int, b: int) -> Pair:
        """Choose who is first by the contents of both: the lower digest if the sum of their last digits is even.

        The choice is known as soon as both are present, and does not depend on the order of arrival. Each member is
        first in about half of its matches: the sum is even or odd with equal chances.
        """
        low, high = sorted((a, b), key=lambda member: (self.digests[member], member))
        is_even = (int(self.digests[low][-1], 16) + int(self.digests[high][-1], 16)) % 2 == 0
        return (low, high) if is_even else (high, low)

    def balance_pair(self, a: int, b: int) -> Pair:
        """Put the member first that was second more often; equal ones by their contents."""
        pair = self.orient_pair(a, b)
        return pair[::-1] if self.records[pair[0]].balance > self.records[pair[1]].balance else pair

    def add_judged_members(self, digests: Mapping[int, str], matches: Iterable[Match]) -> None:
        """Add members, in order, with the matches that they played before."""
        self.digests |= digests
        self.order += digests
        for match in matches:
            if len(match.members) == 2 and not match.problems:
                first, second = match.members
                assert first is not None, "only a baseline has no index, and it is not paired"
                assert second is not None, "only a baseline has no index, and it is not paired"
                self.start((first, second))
                self.finish((first, second), match)


@dataclass(frozen=True)
class Plan:
    """Plan of the pairings of one group."""

    list_pairs: Callable[[Roster], Iterable[Pair]]
    """Lists pairs that can start now; pairs that have started may be among them."""
    uses_results: bool = False
    """Whether the end of a match can make other pairs possible."""


def plan_round_robin(roster: Roster) -> list[Pair]:
    """Pair every two members.

    Identical responses tie without a call, unless no other response gives them a score; that is known at the end.
    """
    return [
        roster.orient_pair(a, b)
        for a, b in combinations(roster.valid, 2)
        if (not roster.late or not roster.late.isdisjoint((a, b)))
        and (roster.closed or roster.digests[a] != roster.digests[b])
    ]


def plan_circle(roster: Roster) -> list[Pair]:
    """Pair each member with the next one in order; the last one meets the first when no more members are to come.

    Each member is once first and once second. Two members meet twice, in both positions. If a member turns out to be
    impossible to judge, its neighbors meet.
    """
    circle = roster.valid
    if roster.closed and len(circle) > 1:
        circle.append(circle[0])
    return [pair for pair in pairwise(circle) if not roster.late or not roster.late.isdisjoint(pair)]


class SwissPlan:
    """Pairings in rounds: members meet others with a similar standing whom they have not met.

    The members are cut into blocks of 2, 4, 8, ... in order. When both halves of a block have played, the members of
    one half meet the members of the other: the k-th best meets the k-th best. A block starts as soon as its members are
    present, and no two members can meet twice. A full group of 2**r members plays r rounds. In other groups, a member
    can miss some; it then meets further members until it has as many matches as there are rounds.

    Latecomers only play these further matches.
    """

    def __init__(self) -> None:
        self._rounds: dict[Pair, list[Pair]] = {}  # (start, size) of a block -> the pairs of its last round
        self._ended: set[Pair] = set()  # blocks whose matches have ended

    def list_pairs(self, roster: Roster) -> list[Pair]:
        """List the pairs that can start now."""
        size = 1 << max(0, len(roster.order) - 1).bit_length()
        if not roster.late:
            has_ended = self._plan_block(roster, 0, size)
            if not has_ended:
                blocks = self._rounds.keys() - self._ended
                return [pair for block in sorted(blocks) for pair in self._rounds[block]]
        can_extend = roster.closed and all(map(roster.is_settled, roster.pairs))
        return _plan_further_matches(roster) if can_extend else []

    def _plan_block(self, roster: Roster, start: int, size: int) -> bool:
        """Decide the next round of each block inside a block.

        Returns:
            Whether all matches of the block have ended.
        """
        if start >= len(roster.order):
            return roster.closed
        if size == 1 or (start, size) in self._ended:
            return True
        half = size // 2
        halves = [self._plan_block(roster, begin, half) for begin in (start, start + half)]
        if not all(halves):
            return False
        if (start, size) not in self._rounds:
            self._rounds[start, size] = _pair_halves(roster, start, half)
        if all(map(roster.is_settled, self._rounds[start, size])):
            self._ended.add((start, size))
        return (start, size) in self._ended


def _pair_halves(roster: Roster, start: int, half: int) -> list[Pair]:
    """Pair the members of two halves of a block by their places in the standings of their halves."""
    halves = [
        sorted((m for m in roster.order[begin : begin + half] if m not in roster.problems), key=_make_sort_key(roster))
        for begin in (start, start + half)
    ]
    few, many = sorted(halves, key=len)
    # In halves of different sizes, the middle of one meets the middle of the other.
    return [
        roster.balance_pair(member, many[(2 * k + 1) * len(many) // (2 * len(few))]) for k, member in enumerate(few)
    ]


def _plan_further_matches(roster: Roster) -> list[Pair]:
    """Pair members that have played too few matches with members of the most similar standing."""
    members = roster.valid
    needed = max(0, len(members) - 1).bit_length()  # the number of rounds: log2, rounded up
    free = set(members)
    pairs = []

    def lacks_matches(member: int) -> bool:
        return roster.records[member].played < needed and (not roster.late or member in roster.late)

    def rate_opponent(member: int, opponent: int) -> tuple[bool, float, str, int]:
        distance = abs(roster.records[member].standing[0] - roster.records[opponent].standing[0])
        return not lacks_matches(opponent), distance, roster.digests[opponent], opponent

    for member in sorted(filter(lacks_matches, members), key=lambda m: (roster.records[m].played, roster.digests[m])):
        candidates = free - roster.records[member].opponents - {member}
        if member in free and candidates:
            opponent = min(candidates, key=partial(rate_opponent, member))
            free -= {member, opponent}
            pairs.append(roster.balance_pair(member, opponent))
    return pairs


def _make_sort_key(roster: Roster) -> Callable[[int], tuple[float, float, str, int]]:
    """Make the sort key of standings, best first; equal members are ordered by their contents."""

    def compute_key(member: int) -> tuple[float, float, str, int]:
        win_rate, margin = roster.records[member].standing
        return -win_rate, -margin, roster.digests[member], member

    return compute_key


def make_plan(method: str) -> Plan:
    """Make the plan of one of `PLANNED_METHODS`."""
    if method == "swiss":
        return Plan(SwissPlan().list_pairs, uses_results=True)
    return Plan(plan_circle if method == "circular" else plan_round_robin)
