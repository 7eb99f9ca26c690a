"""What the comparisons of a group say of each member, in numbers. A member without a verdict has none of them."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.reward.groups.knockout import reached
from flex_judge.reward.groups.match import Match

Numbers = Mapping[int, float]
"""A figure by the index of the member; those that do not have it are not in it."""


@dataclass(frozen=True)
class MemberStatistics:
    """The figures of a group's members, see `flex_judge.reward.types.Reward`."""

    score: Numbers
    expected: Numbers
    """Only of members of whose scored comparisons every one has expected scores."""
    win_rate: Numbers
    rank: Numbers
    margin: Numbers

    @property
    def best_known(self) -> Numbers:
        """Expected scores, and written ones where there are none."""
        return {**self.score, **self.expected}


def compute_statistics(matches: Sequence[Match], method: str) -> MemberStatistics:
    """The figures that comparisons come to.

    Members that were judged alone are held against each other by their expected scores (written, where there are
    none). Where they were compared, a win is what the comparison says, and ranks go by win rate, among equals by
    margin. Of a knock-out, ranks go by how far a member came: those knocked out in the same round are level, whatever
    decided it. With a baseline, the rank is the win rate, which does not depend on who else was there.
    """
    written: dict[int, list[float]] = defaultdict(list)
    expected: dict[int, list[float | None]] = defaultdict(list)
    won: dict[int, list[float]] = defaultdict(list)
    ahead: dict[int, list[float]] = defaultdict(list)
    for match in matches:
        for place, member in enumerate(match.members):
            if member is None or not match.has_verdict:
                continue
            if match.judgment is not None and match.judgment.scores is not None:
                written[member].append(match.judgment.scores[place])
                means = match.judgment.expected_scores
                expected[member].append(None if means is None else means[place])
            if len(match.members) > 1:
                won[member].append(_share(match, place))
                ahead[member].append(_lead(match, place))
    score = {member: _mean(values) for member, values in written.items()}
    finer = {member: _mean(_known(values)) for member, values in expected.items() if None not in values}
    if method == "pointwise":
        known = {**score, **finer}
        ranks = placed(known)
        # The share of the others that one beats, a tie counting half, is its place among them.
        return MemberStatistics(score, finer, ranks, ranks, _leads(known))
    rates = {member: _mean(values) for member, values in won.items()}
    margins = {member: _mean(values) for member, values in ahead.items()}
    if method == "baseline":
        return MemberStatistics(score, finer, rates, rates, margins)
    worth: Mapping[int, Any] = (
        reached(rates, matches) if method == "knockout" else {m: (rates[m], margins[m]) for m in rates}
    )
    return MemberStatistics(score, finer, rates, placed(worth), margins)


def placed(worth: Mapping[int, Any]) -> Numbers:
    """Places by worth: 1 for the most, 0 for the least, the mean place for those that are level; of one, none."""
    last = len(worth) - 1
    ordered = sorted(worth.values())
    return {m: (bisect_left(ordered, w) + bisect_right(ordered, w) - 1) / 2 / last for m, w in worth.items() if last}


def normalised(values: Numbers, how: str) -> Numbers:
    """Values minus their mean, and for `standardize` over their standard deviation (with n - 1, as TRL's is).

    Of values that differ by no more than rounding, and of one alone, every one is 0: that is what is left of it without
    the mean, not a stand-in for a reward that is missing. Those without a value are left out.
    """
    if how == "none" or not values:
        return values
    low, high = min(values.values()), max(values.values())
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return dict.fromkeys(values, 0.0)
    mean = _mean(list(values.values()))
    centred = {member: value - mean for member, value in values.items()}
    if how == "center":
        return centred
    deviation = math.sqrt(math.fsum(value**2 for value in centred.values()) / (len(centred) - 1))
    return {member: value / deviation for member, value in centred.items()}


def _share(match: Match, place: int) -> float:
    """What a place has won of the others in its comparison, on average."""
    return _mean(
        [won for other in range(len(match.members)) if other != place and (won := match.won(place, other)) is not None]
    )


def _lead(match: Match, place: int) -> float:
    """How far a place is ahead of the mean of the others in its comparison."""
    statistics = match.statistics
    if match.equal or statistics is None:
        return 0.0
    return statistics[place] - _mean([*statistics[:place], *statistics[place + 1 :]])


def _leads(scores: Numbers) -> Numbers:
    """How far each is ahead of the mean of the others; of one alone, none."""
    others, total = len(scores) - 1, math.fsum(scores.values())
    return {member: (score * (others + 1) - total) / others for member, score in scores.items() if others}


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)  # summed exactly, so that the order does not show
