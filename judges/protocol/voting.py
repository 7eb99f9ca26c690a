"""Voting: what several verdicts come to together, how many are needed, and in which orders the responses are read.

The outcome of a verdict is the response it prefers, or a tie; for a verdict by options it is the option. The outcome
that more votes have than any other wins, and where the top is shared nothing does: that is a tie. Unscored votes do
not vote.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, Verdict

Outcome = int | str | None
"""The index of the preferred response, the chosen option, or None for a tie."""

Order = Literal["as_given", "random", "both", "rotations"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""In which orders a round reads the responses, see `orders`."""

VOTE_CONFIDENCE = 0.95
"""How sure voting is before it stops early, unless told otherwise. Under the rule's own prior, 15 votes stopped at this
come to what all 15 would have in 98 % of comparisons. `python -m tests.perf votes` measures it: where one vote agrees
with all 15 in eight of ten comparisons, 0.95 casts 45 % of the votes and keeps 99 % of the decisions, while 0.9 only
just keeps 98 % and 0.98 casts more than half. A judge so noisy that one vote agrees in less than three of four still
needs more than half of its votes."""


def get_outcome(verdict: Verdict) -> Outcome:
    """What a scored verdict votes for: its option where it has one, else the response that it prefers."""
    return verdict.preferred if verdict.choice is None else verdict.choice


def combine_votes(id: str, rounds: Sequence[Sequence[Verdict]], **rest: Any) -> Judgment:
    """The judgment that some votes come to.

    The spread is the law of total variance: the mean of the variances within the votes' distributions, where every
    scored vote has one, and the variance between the votes' expected (else written) scores.

    Args:
        id: identity of the comparison.
        rounds: the votes in the order in which they were cast; a round holds one for each order that the responses
            were read in. Scores are in the order of the comparison's responses, see `Verdict.permuted`.
        rest: the other fields of the judgment: usage, model, provenance.

    Raises:
        ValueError: there is no vote, or votes are on different numbers of responses.
    """
    votes = tuple(vote for together in rounds for vote in together)
    if not votes:
        raise ValueError("rounds: there is no vote to combine")
    scored = [vote for vote in votes if vote.scores is not None]
    won = _find_winner(map(get_outcome, scored))
    agreeing = [vote for vote in scored if get_outcome(vote) == won]
    written = _require_complete_rows([vote.scores for vote in scored])
    expected = _require_complete_rows([vote.expected_scores for vote in scored])
    return Judgment(
        id=id,
        # Of statuses that are level, Counter names the one that came first.
        status=Status.OK if scored else Counter(vote.status for vote in votes).most_common(1)[0][0],
        scores=_compute_means(written),
        expected_scores=_compute_means(expected),
        reasoning=(agreeing or scored or votes)[0].reasoning,
        # An option says whom it prefers in its scores; agreeing votes say the same.
        preferred=agreeing[0].preferred if agreeing else None,
        choice=won if isinstance(won, str) else None,
        spread=_compute_spread(expected or written, _require_complete_rows([vote.deviations for vote in scored])),
        disagreement=_compute_disagreement(rounds),
        votes=votes,
        **rest,
    )


def plan_orders(responses: int, how: str, round: int = 0, key: str = "") -> tuple[tuple[int, ...], ...]:
    """The orders in which one round reads the responses, as arguments for `Comparison.permuted`.

    `as_given` is the given order, `random` one drawn anew each round, `both` the given one and its reverse, and
    `rotations` puts every response at every place once. A response on its own has one order.

    Args:
        round: number of the round, from 0; with `key` it is the seed of `random`, the same in every process.
        key: what tells comparisons apart, such as their digest, and runs, such as their seed.

    Raises:
        UsageError: an order that does not exist.
    """
    given = tuple(range(responses))
    if how not in ORDERS:
        raise UsageError(f"order {how!r} does not exist; choose one of {', '.join(ORDERS)}")
    if responses < 2 or how == "as_given":
        return (given,)
    if how == "random":
        return (tuple(random.Random(f"{key}/{round}").sample(given, responses)),)
    if how == "both":
        return given, given[::-1]
    return tuple(given[k:] + given[:k] for k in given)


@dataclass(frozen=True)
class VoteTally:
    """The votes so far, counted by outcome."""

    outcomes: tuple[Outcome, ...]
    """All outcomes that a vote can have, a tie last; none for a single score, which has nothing to decide early."""
    counts: tuple[int, ...]
    """Scored votes for each outcome."""
    cast: int
    """All votes so far, unscored ones too."""

    @classmethod
    def from_votes(cls, votes: Sequence[Verdict], responses: int, options: Sequence[str] = ()) -> VoteTally:
        """Count votes on so many responses; `options` are all that can be chosen, where the verdict is by options.

        Raises:
            ValueError: a vote for something that is no outcome.
        """
        several = (*range(responses), None) if responses > 1 else ()
        outcomes: tuple[Outcome, ...] = tuple(options) or several
        counts = Counter(get_outcome(vote) for vote in votes if vote.scores is not None)
        unknown = counts.keys() - outcomes
        if outcomes and unknown:
            raise ValueError(f"votes: {unknown.pop()!r} is none of the outcomes {outcomes}")
        return cls(outcomes, tuple(counts[o] for o in outcomes), len(votes))

    @property
    def decision(self) -> Outcome:
        """The outcome that more votes have than any other; None for a tie, and where the top is shared."""
        top = max(self.counts, default=0)
        return self.outcomes[self.counts.index(top)] if self.counts.count(top) == 1 else None


def compute_change_probability(tally: VoteTally, remaining: int) -> float:
    """The probability that the decision after `remaining` more votes is another one than now; exact.

    The votes are taken as draws from a distribution over the outcomes about which nothing was known beforehand
    (uniform prior), so the counts of those to come follow a Dirichlet-multinomial law. The stopping rule of
    adaptive-consistency (arXiv 2305.11860) is of this kind; it asks whether today's majority is the true one, while
    this asks for the decision that all votes would come to.

    Returns:
        0.0 if and only if no remaining vote can change the decision; 1.0 while there is no vote to decide by.
    """
    if remaining > 0 and not any(tally.counts):
        return 1.0
    return _compute_exact_change_probability(tally.counts, None in tally.outcomes, max(0, remaining))


def plan_next_wave(tally: VoteTally, total: int, confidence: float = VOTE_CONFIDENCE) -> int:
    """How many votes to cast next, side by side; 0 when the decision stands.

    It stands when all `total` votes are cast, or the chance that the rest of them would change it is at most
    1 - confidence; with confidence 1 they cannot change it at all. A wave is the least number of votes after which it
    could stand if all of them agree with the leader, so casting them in turn would save none (but one, at times,
    where all say tie). A single score has no decision, and all its votes are one wave.

    A caller whose rounds read the responses in several orders casts as many rounds as hold that many votes.

    Raises:
        UsageError: total below 1, or a confidence that is not above 0 and at most 1.
    """
    if total < 1:
        raise UsageError(f"votes must be at least 1, not {total}")
    if not 0 < confidence <= 1:
        raise UsageError(f"vote confidence must be above 0 and at most 1, not {confidence}")
    remaining = max(0, total - tally.cast)
    if not remaining or not tally.outcomes:
        return remaining
    return _compute_wave_size(tally.counts, None in tally.outcomes, remaining, confidence)


@lru_cache(maxsize=1 << 14)
def _compute_wave_size(counts: tuple[int, ...], ties: bool, remaining: int, confidence: float) -> int:
    def is_decided_after(more: int) -> bool:
        agreed = (*counts[:leader], counts[leader] + more, *counts[leader + 1 :])
        return any(agreed) and _compute_exact_change_probability(agreed, ties, remaining - more) <= 1 - confidence

    # Of leaders that are level, the first. A tie, which is last, could stand a vote earlier where the votes left are
    # even, but is the rarer end; waiting for it would cost all others a second wave.
    leader = counts.index(max(counts))
    # Each vote for the leader makes a change less likely, so the first number that is enough can be searched for.
    return 0 if is_decided_after(0) else bisect_left(range(remaining), True, lo=1, key=is_decided_after)


def _compute_exact_change_probability(counts: tuple[int, ...], ties: bool, remaining: int) -> float:
    """The chance to change, for counts of which the last is for a tie if `ties`."""
    # Outcomes as good as each other are counted in one order, so that the caches serve them all.
    rivals = sorted(counts[:-1] if ties else counts, reverse=True)
    tie = counts[-1:] if ties else ()
    ways = math.comb(remaining + sum(counts) + len(counts) - 1, remaining)
    top = max(counts)
    if counts.count(top) == 1 and top == rivals[0]:
        changed = ways - _count_winning_ways(top, (*rivals[1:], *tie), remaining)
    else:  # a tie, or options that are level: changed by every way in which one (by options: any) comes out on top
        changed = sum(
            _count_winning_ways(own, (*rivals[:i], *rivals[i + 1 :], *tie), remaining) for i, own in enumerate(rivals)
        )
    return changed / ways


@lru_cache(maxsize=1 << 16)
def _count_winning_ways(own: int, others: tuple[int, ...], remaining: int) -> int:
    """In how many ways the remaining votes put an outcome with `own` votes above all others.

    A way is one of the equally likely divisions of a Polya urn with a ball for each outcome and each vote: x more
    votes come to an outcome with c in C(c + x, x) ways.
    """
    total = 0
    for gained in range(remaining + 1):
        final, left = own + gained, remaining - gained
        if max(others) < final:
            total += math.comb(final, gained) * _count_ways_to_share(others, left, final - 1)
    return total


def _count_ways_to_share(counts: tuple[int, ...], votes: int, most: int) -> int:
    """In how many ways so many votes are shared among outcomes of which none may come to more than `most`."""
    if max(counts) + votes <= most:
        return math.comb(votes + sum(counts) + len(counts) - 1, votes)
    ways = [1] + [0] * votes  # to share 0, 1, ... votes among the outcomes seen so far
    for count in counts:
        own = [math.comb(count + x, x) for x in range(min(votes, most - count) + 1)]
        ways = [sum(own[x] * ways[v - x] for x in range(min(v + 1, len(own)))) for v in range(votes + 1)]
    return ways[votes]


def _find_winner(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome that is commoner than any other; None if there is none."""
    (first, most), *others = Counter(outcomes).most_common(2) or [(None, 0)]
    return None if others and others[0][1] == most else first


def _require_complete_rows(rows: Sequence[tuple[float, ...] | None]) -> list[tuple[float, ...]]:
    """The rows if every one of them is known, else none."""
    known = [row for row in rows if row is not None]
    return known if len(known) == len(rows) else []


def _compute_means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    # Summed exactly, so that the order of the votes does not show.
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)) if rows else None


def _compute_spread(
    scores: Sequence[tuple[float, ...]], deviations: Sequence[tuple[float, ...]]
) -> tuple[float, ...] | None:
    means = _compute_means(scores)
    if means is None or (len(scores) == 1 and not deviations):
        return None
    between = _compute_means([tuple((s - m) ** 2 for s, m in zip(row, means, strict=True)) for row in scores])
    within = _compute_means([tuple(d**2 for d in row) for row in deviations]) or (0.0,) * len(means)
    return tuple(math.sqrt(b + w) for b, w in zip(between or (), within, strict=True))


def _compute_disagreement(rounds: Sequence[Sequence[Verdict]]) -> float | None:
    told = [together for together in rounds if len(together) > 1 and all(v.scores is not None for v in together)]
    if not told:
        return None
    return sum(len({v.preferred for v in together}) > 1 for together in told) / len(told)
