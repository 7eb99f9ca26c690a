"""Matches between members of a group, and knock-out tournaments (arXiv 2501.13007)."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.judgments import Judgment


@dataclass(frozen=True)
class Match:
    """One comparison of members of a group, or of one alone."""

    members: tuple[int | None, ...]
    """Who stood at each place, as indexes of the group; None is the baseline of the member beside it."""
    judgment: Judgment | None
    """None where nobody was asked, as the responses are equal."""
    equal: bool = False
    """Whether the responses are equal: a tie, whatever a judge says."""
    round: int = 0
    """Of a knock-out: which round it belongs to, from 1; the final has the highest number."""
    through: int | None = None
    """Of a knock-out: who went on."""

    @property
    def best_scores(self) -> tuple[float, ...] | None:
        """The scores by place, expected ones where there are; None without a verdict."""
        if self.judgment is None:
            return None
        expected = self.judgment.expected_scores
        return self.judgment.scores if expected is None else expected

    def get_outcome(self, place: int, other: int) -> float | None:
        """What one place has won of another: 1, 0, or a half for a tie; None without a verdict.

        Of a pair it is what most votes prefer; among more it is the higher score, expected where there is one.
        """
        statistics = self.best_scores
        if self.equal:
            return 0.5
        if self.judgment is None or statistics is None:
            return None
        if len(self.members) == 2:
            preferred = self.judgment.preferred
            return 0.5 if preferred is None else float(preferred == place)
        return 0.5 if statistics[place] == statistics[other] else float(statistics[place] > statistics[other])

    @property
    def has_verdict(self) -> bool:
        return self.equal or self.best_scores is not None

    def strip_text(self) -> Match:
        """The same with nothing but its scores, to be kept."""
        if self.judgment is None:
            return self
        return replace(self, judgment=replace(self.judgment, reasoning="", votes=(), provenance={}))


Play = Callable[[int, int], Awaitable[Match]]
"""Have two members compared, the first of them standing first."""


async def play_knockout(drawn: Sequence[int], play: Play) -> list[Match]:
    """Single elimination: n - 1 matches in ceil(log2 n) rounds; each is held as soon as its two members are known.

    The draw is halved again and again; where n is no power of two, some members have no match in the first round.

    Args:
        drawn: the members in the order of the draw.

    Returns:
        All matches with their rounds and who went on, see `_goes_on`; the final last.
    """
    matches, _ = await _play_bracket(drawn, (len(drawn) - 1).bit_length(), play)
    return matches


async def _play_bracket(drawn: Sequence[int], round: int, play: Play) -> tuple[list[Match], int]:
    """The matches among some members, the last of them in that round, and who comes out of them."""
    if len(drawn) == 1:
        return [], drawn[0]
    half = (len(drawn) + 1) // 2
    (left, a), (right, b) = await gather_all(
        [_play_bracket(drawn[:half], round - 1, play), _play_bracket(drawn[half:], round - 1, play)]
    )
    match = await _play_match(a, b, round, [*left, *right], play)
    assert match.through is not None
    return [*left, *right, match], match.through


async def play_latecomer(latecomer: int, drawn: Sequence[int], matches: Sequence[Match], play: Play) -> list[Match]:
    """The matches of one who comes when the knock-out is over, as though it had been in the draw.

    It meets one of those who were knocked out in the first round, then one of the second, and so on until it is knocked
    out itself or has beaten the winner: at most one match for each round, and one.

    Args:
        drawn: the members that it may meet.
        matches: the knock-out, and the matches of earlier latecomers.
    """
    held: list[Match] = []
    levels = find_exit_rounds(drawn, matches)
    for level in sorted(set(levels.values())):
        # Not always the same one, so that one upset does not place all latecomers.
        opponent = random.Random(f"{latecomer}/{level}").choice([m for m in drawn if levels[m] == level])
        held.append(await _play_match(opponent, latecomer, level, [*matches, *held], play))
        if held[-1].through != latecomer:
            break
    return held


def find_exit_rounds(members: Iterable[int], matches: Sequence[Match]) -> dict[int, int]:
    """How far each member came: the round in which it was knocked out, or one more than the last where it never was."""
    last = max((match.round for match in matches), default=0)
    # Who is met by a latecomer after it was knocked out is met in that same round.
    out = {member: match.round for match in matches for member in match.members if member != match.through}
    return {member: out.get(member, last + 1) for member in members}


async def _play_match(a: int, b: int, round: int, before: Sequence[Match], play: Play) -> Match:
    # Who stood second more often stands first, so that a leaning of the judge to one place is not always for the same.
    match = await play(
        *((b, a) if _compute_position_balance(b, before) < _compute_position_balance(a, before) else (a, b))
    )
    return replace(match, round=round, through=_choose_winner(match, a, b, before))


def _choose_winner(match: Match, a: int, b: int, before: Sequence[Match]) -> int:
    """Who goes on: the preferred one; at a tie the one with the higher expected score; without a verdict the one with
    the higher mean score in the matches before. Where that is level too, `a`: the one that comes first in the draw, or
    was there before the latecomer.
    """
    place = match.members.index
    won = match.get_outcome(place(a), place(b))
    if won is not None and won != 0.5:
        return a if won else b
    if won is None:
        mine, other = _compute_mean_score(a, before), _compute_mean_score(b, before)
    else:
        statistics = None if match.equal else match.best_scores
        mine, other = (statistics[place(a)], statistics[place(b)]) if statistics else (None, None)
    return b if mine is not None and other is not None and other > mine else a


def _compute_position_balance(member: int, matches: Sequence[Match]) -> int:
    """How much more often it stood first than second."""
    return sum(1 if match.members[0] == member else -1 for match in matches if member in match.members)


def _compute_mean_score(member: int, matches: Sequence[Match]) -> float | None:
    scores = [
        match.best_scores[match.members.index(member)]
        for match in matches
        if member in match.members and match.best_scores
    ]
    return math.fsum(scores) / len(scores) if scores else None
