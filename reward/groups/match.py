"""Matches between group members, and knock-out tournaments (arXiv 2501.13007)."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.judgments import Judgment, Status


@dataclass(frozen=True)
class Match:
    """One comparison of group members, or of a single member."""

    members: tuple[int | None, ...]
    """Member index at each position; None is the baseline of the member in the other position."""
    judgment: Judgment | None
    """None if the judge was not called because the responses are identical."""
    identical: bool = False
    """Whether the responses are identical, which makes the match a tie in any case."""
    round: int = 0
    """Round of a knock-out, starting at 1; the final has the highest number."""
    winner: int | None = None
    """Member that advances to the next round of a knock-out."""
    problems: tuple[str, ...] = ()
    """Reason why each member cannot be judged; the match then has no members that can be, and no verdict."""

    @property
    def best_scores(self) -> tuple[float, ...] | None:
        """Score of each position, expected scores if available; None without a verdict."""
        if self.judgment is None:
            return None
        expected = self.judgment.expected_scores
        return self.judgment.scores if expected is None else expected

    def get_outcome(self, position: int, opponent: int) -> float | None:
        """Return the result of one position against another: 1 for a win, 0 for a loss, 0.5 for a tie.

        A pair is decided by the majority of votes, a longer list by the higher score (expected scores if available).

        Returns:
            None without a verdict.
        """
        scores = self.best_scores
        if self.identical:
            return 0.5
        if self.judgment is None or scores is None:
            return None
        if len(self.members) == 2:
            preferred = self.judgment.preferred
            return 0.5 if preferred is None else float(preferred == position)
        return 0.5 if scores[position] == scores[opponent] else float(scores[position] > scores[opponent])

    def get_failure(self, member: int) -> tuple[Status, str] | None:
        """Return status and detail if the match has no verdict because of a failure."""
        if self.problems:
            return Status.INVALID_INPUT, self.problems[self.members.index(member)]
        if self.judgment is None or self.judgment.scores is not None:
            return None
        return self.judgment.status, self.judgment.detail

    def get_margin(self, position: int) -> float:
        """Return a position's score minus the mean score of the others; 0 for identical responses or without scores."""
        scores = self.best_scores
        if self.identical or scores is None:
            return 0.0
        others = [*scores[:position], *scores[position + 1 :]]
        return scores[position] - math.fsum(others) / len(others)

    @property
    def has_verdict(self) -> bool:
        """Whether the match has a result."""
        return self.identical or self.best_scores is not None

    def strip_text(self) -> Match:
        """Return a copy without reasoning, votes and provenance, to save memory."""
        if self.judgment is None:
            return self
        return replace(self, judgment=replace(self.judgment, reasoning="", votes=(), provenance={}))


PlayMatch = Callable[[int, int], Awaitable[Match]]
"""Compare two members; the first argument takes the first position."""


async def play_knockout(bracket: Sequence[int], play: PlayMatch) -> list[Match]:
    """Play a single-elimination tournament: n - 1 matches in ceil(log2 n) rounds.

    The bracket is halved recursively; if n is not a power of two, some members have no match in the first round. A
    match starts as soon as its two members are known.

    Args:
        bracket: the members in bracket order.
        play: compares two members.

    Returns:
        All matches with their round and winner, see `_choose_winner`; the final is last.
    """
    matches, _ = await _play_bracket(bracket, (len(bracket) - 1).bit_length(), play)
    return matches


async def _play_bracket(bracket: Sequence[int], round: int, play: PlayMatch) -> tuple[list[Match], int]:
    """Play all matches of a part of the bracket, the last one in `round`. Returns them and the winner."""
    if len(bracket) == 1:
        return [], bracket[0]
    half = (len(bracket) + 1) // 2
    (left, a), (right, b) = await gather_all(
        [_play_bracket(bracket[:half], round - 1, play), _play_bracket(bracket[half:], round - 1, play)]
    )
    match = await _play_match(a, b, round, [*left, *right], play)
    assert match.winner is not None
    return [*left, *right, match], match.winner


async def play_latecomer(
    latecomer: int, bracket: Sequence[int], matches: Sequence[Match], play: PlayMatch
) -> list[Match]:
    """Play the matches of a member that arrives after the knock-out, as if it had been in the bracket.

    It plays one of the members eliminated in the first round, then one eliminated in the second, and so on, until it
    loses or has beaten the winner. That is at most one match for each round, plus one.

    Args:
        latecomer: the late member.
        bracket: its possible opponents.
        matches: the matches of the knock-out and of earlier latecomers.
        play: compares two members.
    """
    played: list[Match] = []
    exit_rounds = find_exit_rounds(bracket, matches)
    for exit_round in sorted(set(exit_rounds.values())):
        candidates = [member for member in bracket if exit_rounds[member] == exit_round]
        # Latecomers get different opponents, so that one upset does not decide the rank of all of them.
        opponent = random.Random(f"{latecomer}/{exit_round}").choice(candidates)
        match = await _play_match(opponent, latecomer, exit_round, [*matches, *played], play)
        played.append(match)
        if match.winner != latecomer:
            break
    return played


def find_exit_rounds(members: Iterable[int], matches: Sequence[Match]) -> dict[int, int]:
    """Find the round in which each member was eliminated; one more than the last round if it never was."""
    last = max((match.round for match in matches), default=0)
    # A latecomer's match against an eliminated member has that member's exit round, so later entries do not differ.
    eliminated = {member: match.round for match in matches for member in match.members if member != match.winner}
    return {member: eliminated.get(member, last + 1) for member in members}


async def _play_match(a: int, b: int, round: int, earlier: Sequence[Match], play: PlayMatch) -> Match:
    # The member that was second more often goes first, so that the judge's position bias averages out.
    b_first = _compute_position_balance(b, earlier) < _compute_position_balance(a, earlier)
    match = await (play(b, a) if b_first else play(a, b))
    return replace(match, round=round, winner=_choose_winner(match, a, b, earlier))


def _choose_winner(match: Match, a: int, b: int, earlier: Sequence[Match]) -> int:
    """Choose the member that advances.

    A member that cannot be judged loses to one that can. The preferred member wins. A tie is decided by the expected
    scores of the match, a match without a verdict by the mean scores of the earlier matches. If these are equal too,
    `a` wins: it is first in the bracket, or was present before the latecomer.
    """
    if match.problems:
        return b if a in match.members else a
    position = match.members.index
    outcome = match.get_outcome(position(a), position(b))
    if outcome is not None and outcome != 0.5:
        return a if outcome else b
    if outcome is None:
        score_a, score_b = _compute_mean_score(a, earlier), _compute_mean_score(b, earlier)
    else:
        scores = None if match.identical else match.best_scores
        score_a, score_b = (scores[position(a)], scores[position(b)]) if scores else (None, None)
    return b if score_a is not None and score_b is not None and score_b > score_a else a


def _compute_position_balance(member: int, matches: Sequence[Match]) -> int:
    """Count how much more often a member was first than second."""
    return sum(1 if match.members[0] == member else -1 for match in matches if member in match.members)


def _compute_mean_score(member: int, matches: Sequence[Match]) -> float | None:
    scores = []
    for match in matches:
        if member in match.members and match.best_scores:
            scores.append(match.best_scores[match.members.index(member)])
    return math.fsum(scores) / len(scores) if scores else None
