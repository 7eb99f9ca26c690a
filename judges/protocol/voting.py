"""Voting: combine several verdicts into a judgment, decide how many votes are needed, and choose reading orders.

The outcome of a verdict is the response it prefers, or a tie; for a rubric with options it is the option. The outcome
with more votes than any other wins. If the top is shared, the result is a tie. Unscored votes do not count.
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
"""Index of the preferred response, the chosen option, or None for a tie."""

Order = Literal["as_given", "random", "both", "rotations"]
ORDERS: tuple[Order, ...] = get_args(Order)
"""Policies for the reading orders of a round, see `plan_orders`."""

VOTE_CONFIDENCE = 0.95
"""Default confidence at which voting stops early.

Under the rule's own prior, stopping 15 votes at 0.95 keeps 98 % of the decisions. `python -m tests.perf votes` measures
it: if a single vote agrees with all 15 in eight of ten comparisons, 0.95 casts 45 % of the votes and keeps 99 % of the
decisions; 0.9 keeps barely 98 %, and 0.98 casts more than half. A noisy judge, with agreement below three in four,
still needs more than half of its votes at 0.95."""


def get_outcome(verdict: Verdict) -> Outcome:
    """Return the outcome that a scored verdict votes for: its option if it has one, else its preferred response."""
    return verdict.preferred if verdict.choice is None else verdict.choice


def combine_votes(id: str, rounds: Sequence[Sequence[Verdict]], **fields: Any) -> Judgment:
    """Combine votes into a judgment.

    The spread follows the law of total variance: mean variance within the votes' distributions (if every scored vote
    has one) plus variance between the votes' expected scores (or written scores, if expected ones are missing).

    Args:
        id: id of the comparison.
        rounds: votes in casting order, one per reading order in each round. Scores are in the order of the comparison's
            responses, see `Verdict.permute_responses`.
        **fields: other fields of the judgment: usage, model, provenance.

    Raises:
        ValueError: there are no votes, or the votes are on different numbers of responses.
    """
    votes = tuple(vote for round_votes in rounds for vote in round_votes)
    if not votes:
        raise ValueError("rounds: there is no vote to combine")
    scored = [vote for vote in votes if vote.scores is not None]
    winner = _find_winner(map(get_outcome, scored))
    agreeing = [vote for vote in scored if get_outcome(vote) == winner]
    written = _require_complete_rows([vote.scores for vote in scored])
    expected = _require_complete_rows([vote.expected_scores for vote in scored])
    deviations = _require_complete_rows([vote.deviations for vote in scored])
    return Judgment(
        id=id,
        # For equal counts, Counter returns the status that came first.
        status=Status.OK if scored else Counter(vote.status for vote in votes).most_common(1)[0][0],
        scores=_compute_means(written),
        expected_scores=_compute_means(expected),
        reasoning=(agreeing or scored or votes)[0].reasoning,
        # All votes for an option prefer the same response, so the first one is enough.
        preferred=agreeing[0].preferred if agreeing else None,
        choice=winner if isinstance(winner, str) else None,
        spread=_compute_spread(expected or written, deviations),
        disagreement=_compute_disagreement(rounds),
        votes=votes,
        **fields,
    )


def plan_orders(responses: int, order: str, round: int = 0, key: str = "") -> tuple[tuple[int, ...], ...]:
    """Plan the reading orders of one round, as arguments for `Comparison.permute_responses`.

    Args:
        responses: number of responses; a single response always has one order.
        order: `as_given`: the given order; `random`: one random order per round; `both`: the given order and its
            reverse; `rotations`: all cyclic orders, so that every response is read in every place once.
        round: number of the round, from 0. Together with `key` it seeds `random`, identically in every process.
        key: distinguishes comparisons (their digest) and runs (their seed).

    Raises:
        UsageError: the order does not exist.
    """
    as_given = tuple(range(responses))
    if order not in ORDERS:
        raise UsageError(f"order {order!r} does not exist; choose one of {', '.join(ORDERS)}")
    if responses < 2 or order == "as_given":
        return (as_given,)
    if order == "random":  # Random hashes a string seed with SHA-512, so the order is the same in every process.
        return (tuple(random.Random(f"{key}/{round}").sample(as_given, responses)),)
    if order == "both":
        return as_given, as_given[::-1]
    return tuple(as_given[k:] + as_given[:k] for k in as_given)


@dataclass(frozen=True)
class VoteTally:
    """Votes so far, counted by outcome."""

    outcomes: tuple[Outcome, ...]
    """All possible outcomes, with a tie last; empty for a single score, which has no decision."""
    counts: tuple[int, ...]
    """Number of scored votes for each outcome."""
    cast: int
    """Number of all votes so far, including unscored ones."""

    @classmethod
    def from_votes(cls, votes: Sequence[Verdict], responses: int, options: Sequence[str] = ()) -> VoteTally:
        """Count votes by outcome.

        Args:
            votes: verdicts so far.
            responses: number of responses to decide between; 1 if votes give scores that are averaged instead.
            options: all options, if the rubric asks for one; empty if it asks for scores.

        Raises:
            ValueError: a vote has an outcome that is not possible.
        """
        outcomes: tuple[Outcome, ...] = tuple(options)
        if not options and responses > 1:
            outcomes = (*range(responses), None)
        counts = Counter(get_outcome(vote) for vote in votes if vote.scores is not None)
        unknown = counts.keys() - outcomes
        if outcomes and unknown:
            raise ValueError(f"votes: {unknown.pop()!r} is not one of the outcomes {outcomes}")
        return cls(outcomes, tuple(counts[outcome] for outcome in outcomes), len(votes))

    @property
    def decision(self) -> Outcome:
        """The outcome with more votes than any other; None for a tie or a shared top."""
        top = max(self.counts, default=0)
        return self.outcomes[self.counts.index(top)] if self.counts.count(top) == 1 else None


def compute_change_probability(tally: VoteTally, remaining: int) -> float:
    """Compute the exact probability that the decision after `remaining` more votes differs from the current one.

    Votes are modelled as samples from a distribution over outcomes with a uniform prior, so the counts of future votes
    follow a Dirichlet-multinomial distribution. The stopping rule of adaptive-consistency (arXiv 2305.11860) is
    similar: it asks whether the current majority is the true one, while this asks what all votes would decide.

    Args:
        tally: votes so far.
        remaining: number of votes that could still be cast.

    Returns:
        0.0 if and only if the remaining votes cannot change the decision; 1.0 as long as there is no scored vote.
    """
    if remaining > 0 and not any(tally.counts):
        return 1.0
    return _compute_exact_change_probability(tally.counts, None in tally.outcomes, max(0, remaining))


def plan_next_wave(tally: VoteTally, total: int, confidence: float = VOTE_CONFIDENCE) -> int:
    """Return how many votes to cast concurrently next; 0 if the decision is final.

    The decision is final if all `total` votes are cast, or if the probability that the remaining votes change it is at
    most 1 - confidence. A wave is the smallest number of votes after which the decision could be final if all of them
    agree with the leader. So casting votes one by one would not save any (except sometimes one, if all say tie). A
    single score has no decision, so all of its votes are one wave.

    With several reading orders per round, the caller rounds the wave up to whole rounds.

    Args:
        tally: votes so far.
        total: maximum number of votes.
        confidence: probability with which the decision has to stand.

    Raises:
        UsageError: total is below 1, or confidence is not above 0 and at most 1.
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
def _compute_wave_size(counts: tuple[int, ...], has_tie: bool, remaining: int, confidence: float) -> int:
    def is_decided_after(votes: int) -> bool:
        agreed = (*counts[:leader], counts[leader] + votes, *counts[leader + 1 :])
        return any(agreed) and _compute_exact_change_probability(agreed, has_tie, remaining - votes) <= 1 - confidence

    # Among equal leaders the first one counts. A tie, which comes last, can be decided one vote earlier if the number
    # of remaining votes is even, but ties are rare, and stopping for them would cost all others a second wave.
    leader = counts.index(max(counts))
    # Each vote for the leader makes a change less likely, so binary search finds the first sufficient number.
    return 0 if is_decided_after(0) else bisect_left(range(remaining), True, lo=1, key=is_decided_after)


def _compute_exact_change_probability(counts: tuple[int, ...], has_tie: bool, remaining: int) -> float:
    """Compute the probability of a changed decision; with `has_tie` the last count is the tie's."""
    # Outcomes are interchangeable, so sorted counts let all permutations share one cache entry.
    rivals = sorted(counts[:-1] if has_tie else counts, reverse=True)
    tie = counts[-1:] if has_tie else ()
    ways = math.comb(remaining + sum(counts) + len(counts) - 1, remaining)
    top = max(counts)
    if counts.count(top) == 1 and top == rivals[0]:
        changing_ways = ways - _count_winning_ways(top, (*rivals[1:], *tie), remaining)
    else:  # The decision is a tie, or options share the top: any way in which one of them wins changes it.
        changing_ways = sum(
            _count_winning_ways(count, (*rivals[:i], *rivals[i + 1 :], *tie), remaining)
            for i, count in enumerate(rivals)
        )
    return changing_ways / ways


@lru_cache(maxsize=1 << 16)
def _count_winning_ways(count: int, rivals: tuple[int, ...], remaining: int) -> int:
    """Count the ways that put an outcome with `count` votes above all rivals after the remaining votes.

    A way is one of the equally likely results of a Polya urn that starts with one ball per outcome and per vote: an
    outcome with c votes gets x more in C(c + x, x) ways.
    """
    total = 0
    for gained in range(remaining + 1):
        final_count = count + gained
        if max(rivals) < final_count:
            rival_ways = _count_ways_to_share(rivals, remaining - gained, final_count - 1)
            total += math.comb(final_count, gained) * rival_ways
    return total


def _count_ways_to_share(counts: tuple[int, ...], votes: int, max_count: int) -> int:
    """Count the ways to share votes among outcomes such that none ends above `max_count`."""
    if max(counts) + votes <= max_count:  # The limit cannot be reached.
        return math.comb(votes + sum(counts) + len(counts) - 1, votes)
    # Convolution over the outcomes: ways[v] is the number of ways to share v votes among the outcomes so far.
    ways = [1] + [0] * votes
    for count in counts:
        gains = [math.comb(count + x, x) for x in range(min(votes, max_count - count) + 1)]
        ways = [sum(gains[x] * ways[v - x] for x in range(min(v + 1, len(gains)))) for v in range(votes + 1)]
    return ways[votes]


def _find_winner(outcomes: Iterable[Outcome]) -> Outcome:
    """Return the most common outcome; None without outcomes or with a shared top."""
    ranking = Counter(outcomes).most_common(2)
    if not ranking or (len(ranking) == 2 and ranking[0][1] == ranking[1][1]):
        return None
    return ranking[0][0]


def _require_complete_rows(rows: Sequence[tuple[float, ...] | None]) -> list[tuple[float, ...]]:
    """Return all rows, or an empty list if any row is missing."""
    present = [row for row in rows if row is not None]
    return present if len(present) == len(rows) else []


def _compute_means(rows: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    # fsum is exact, so the result does not depend on the order of the votes.
    return tuple(math.fsum(column) / len(rows) for column in zip(*rows, strict=True)) if rows else None


def _compute_spread(
    scores: Sequence[tuple[float, ...]], deviations: Sequence[tuple[float, ...]]
) -> tuple[float, ...] | None:
    means = _compute_means(scores)
    # A single vote without a distribution says nothing about its uncertainty; 0 would claim certainty.
    if means is None or (len(scores) == 1 and not deviations):
        return None
    between = _compute_means([tuple((s - m) ** 2 for s, m in zip(row, means, strict=True)) for row in scores])
    within = _compute_means([tuple(d**2 for d in row) for row in deviations]) or (0.0,) * len(means)
    return tuple(math.sqrt(b + w) for b, w in zip(between or (), within, strict=True))


def _compute_disagreement(rounds: Sequence[Sequence[Verdict]]) -> float | None:
    scored_rounds = [votes for votes in rounds if len(votes) > 1 and all(vote.scores is not None for vote in votes)]
    if not scored_rounds:
        return None
    return sum(len({vote.preferred for vote in votes}) > 1 for votes in scored_rounds) / len(scored_rounds)
