"""Successive halving: spend judgments on the candidates that may still win.

Each candidate is judged once. The better half is judged again, then the better half of those, and so on, with the same
number of judgments in every round (sequential halving: Karnin, Koren and Somekh, ICML 2013; Jamieson and Talwalkar,
arXiv 1502.07943). Each round keeps one candidate more than half, because noise decides which candidate is next to the
cut. A candidate is also dropped early when it trails the leader by more than the judge's noise explains. The process
ends when one candidate is left or the budget is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.reward.groups.match import Match

JudgeCandidate = Callable[[int, int], Coroutine[Any, Any, Judgment]]
"""A function (candidate index, sample index) -> judgment of that candidate alone."""
PRIOR_NOISE = 1 / 6
"""Assumed standard deviation between judgments of one response, as a fraction of the rubric's scale.

On a scale of 1 to 10 this is 1.5. The value is high on purpose: a dropped candidate never returns, and if the judge is
less noisy than this, the estimate falls after the next round.
"""
PRIOR_WEIGHT = 2.0
"""Weight of the prior noise, in degrees of freedom."""
MAX_UNSCORED_TRIES = 2
"""Maximum number of judgments for a candidate that has no score yet."""


@dataclass(frozen=True)
class HalvingRules:
    """Limits of a halving run."""

    votes: int
    """Maximum number of judgments per candidate."""
    budget: int
    """Maximum number of judgments in total. Each candidate gets one judgment even if this exceeds the budget."""
    confidence: float
    """Required probability that a candidate stays behind the leader before it is dropped early, 0.5 to 1."""
    noise: float
    """Assumed standard deviation between judgments of one response, in points on the scale."""


@dataclass(frozen=True)
class CandidateState:
    """Judgments of one candidate so far."""

    statistics: tuple[float, ...] = ()
    """Score of each scored judgment: the expected score if there is one, else the written score."""
    errors: tuple[float, ...] = ()
    """Variances of `statistics` as reported by the judge: squared spread divided by the number of votes."""
    requested: int = 0
    """Number of judgments requested, including those without a score."""
    is_hopeless: bool = False
    """Whether the last judgment failed in a way that every further one would, too."""

    @property
    def mean(self) -> float:
        """Mean score; only defined if there is a score."""
        return math.fsum(self.statistics) / len(self.statistics)

    @property
    def needs_score(self) -> bool:
        """Whether the candidate has no score yet but another judgment may give one."""
        return not self.statistics and not self.is_hopeless and self.requested < MAX_UNSCORED_TRIES

    def with_judgment(self, judgment: Judgment) -> CandidateState:
        """Return the state after one more judgment."""
        scores = Match((0,), judgment).best_scores
        if scores is None:
            # A response that is too long or unreadable is so the next time; other failures may be transient.
            is_hopeless = judgment.status in (Status.OVERLONG, Status.INVALID_INPUT)
            return replace(self, requested=self.requested + 1, is_hopeless=is_hopeless)
        votes = sum(vote.scores is not None for vote in judgment.votes) or 1
        errors = () if judgment.spread is None else (judgment.spread[0] ** 2 / votes,)
        return replace(
            self,
            statistics=(*self.statistics, scores[0]),
            errors=(*self.errors, *errors),
            requested=self.requested + 1,
        )


@dataclass(frozen=True)
class HalvingResult:
    """Judgments and ranking of a halving run."""

    matches: tuple[Match, ...]
    """All judgments, ordered by round, then candidate and sample index."""
    sort_keys: Mapping[int, tuple[int, float]]
    """Scored candidate -> (number of rounds it survived, mean score); a higher key ranks higher."""


async def run_halving(candidates: Sequence[int], judge_candidate: JudgeCandidate, rules: HalvingRules) -> HalvingResult:
    """Run successive halving. The judgments of a round are requested concurrently.

    Args:
        candidates: Candidate indexes. If candidates are equal at a cut, those listed first stay.
        judge_candidate: Judges one candidate; a failed judgment is returned with its status.
        rules: Limits of the run.

    Returns:
        All judgments and the sort keys of the scored candidates.

    Raises:
        JudgeError: The first error that `judge_candidate` raised; the other requests of the round are cancelled.
    """
    states = dict.fromkeys(candidates, CandidateState())
    # Halving n candidates down to one takes log2(n) rounds, rounded up.
    rounds = max(1, (len(candidates) - 1).bit_length())
    rounds_survived = dict.fromkeys(candidates, 0)
    matches: list[Match] = []
    remaining, wave, round_number = list(candidates), dict.fromkeys(candidates, 1), 0
    while wave:
        requests = [(i, states[i].requested + k) for i, count in wave.items() for k in range(count)]
        judgments = await gather_all(judge_candidate(i, sample_index) for i, sample_index in requests)
        for (i, _), judgment in zip(requests, judgments, strict=True):
            states[i] = states[i].with_judgment(judgment)
            matches.append(Match((i,), judgment))
        round_number += 1
        # One more than half: which candidate is next to the cut is mostly noise.
        limit = -(-len(candidates) >> round_number) + 1
        ahead = select_contenders({i: states[i] for i in remaining}, limit, rules)
        rounds_survived |= dict.fromkeys(ahead, round_number)
        unscored = [i for i in remaining if states[i].needs_score and states[i].requested < rules.votes]
        # A greedy judge would give the same judgments again.
        if all(map(_is_greedy, judgments)):
            break
        remaining = [*ahead, *unscored]
        wave = plan_next_wave(states, ahead, unscored, rules.budget // rounds, rules)
    sort_keys = {i: (rounds_survived[i], states[i].mean) for i in candidates if states[i].statistics}
    return HalvingResult(tuple(matches), sort_keys)


def select_contenders(states: Mapping[int, CandidateState], limit: int, rules: HalvingRules) -> list[int]:
    """List the candidates that may still win, best first.

    Args:
        states: State of each remaining candidate.
        limit: Maximum number of contenders.
        rules: Limits of the run; `confidence` decides who is too far behind the leader.
    """
    ranked = sorted((i for i in states if states[i].statistics), key=lambda i: -states[i].mean)[:limit]
    noise = estimate_noise(list(states.values()), rules.noise)
    return [i for i in ranked if i == ranked[0] or not is_behind(states[i], states[ranked[0]], noise, rules)]


def plan_next_wave(
    states: Mapping[int, CandidateState],
    contenders: Sequence[int],
    unscored: Sequence[int],
    per_round: int,
    rules: HalvingRules,
) -> dict[int, int]:
    """Plan the next round: candidate -> number of judgments to request. An empty plan ends the run.

    Each unscored candidate gets one more judgment. The rest of the round is split evenly among the contenders, but no
    candidate's judgments more than triple, so that the run can stop as soon as the leader is clear.

    Args:
        states: State of every candidate.
        contenders: Candidates that may still win.
        unscored: Candidates to be tried again because they have no score.
        per_round: Number of judgments per round.
        rules: Limits of the run.
    """
    budget_left = rules.budget - sum(state.requested for state in states.values())
    # The first round may exceed the budget, so the rest can be negative.
    wave = dict.fromkeys(unscored[: max(0, budget_left)], 1)
    budget_left -= len(wave)
    if len(contenders) > 1:
        share = min(max(1, per_round // len(contenders)), budget_left // len(contenders))
        for i in contenders:
            count = min(share, 2 * states[i].requested, rules.votes - states[i].requested)
            if count > 0:
                wave[i] = count
    return wave


def is_behind(candidate: CandidateState, leader: CandidateState, noise: float, rules: HalvingRules) -> bool:
    """Return whether the candidate would stay behind the leader if both got all votes, with the required confidence.

    The mean of the first n votes and the mean of all V votes differ with variance noise^2 (1/n - 1/V). With all votes
    cast, nothing is uncertain and any difference decides.

    Args:
        candidate: State of the candidate.
        leader: State of the leader.
        noise: Standard deviation between judgments of one response.
        rules: Limits of the run.
    """
    gap = leader.mean - candidate.mean
    open_variance = sum(max(0.0, 1 / len(state.statistics) - 1 / rules.votes) for state in (candidate, leader))
    if gap <= 0 or open_variance <= 0:
        return gap > 0
    # Full confidence is never reached while votes are open (the quantile is infinite).
    if rules.confidence >= 1:
        return False
    return gap > NormalDist().inv_cdf(rules.confidence) * noise * math.sqrt(open_variance)


def estimate_noise(states: Sequence[CandidateState], assumed: float) -> float:
    """Estimate the standard deviation between judgments of one response, pooled over all candidates.

    Args:
        states: States of the candidates.
        assumed: Prior standard deviation. It weighs `PRIOR_WEIGHT` degrees of freedom and is replaced by the judge's
            own reported variance where that is larger: a judge that reports doubt is believed, one that reports
            certainty is not.
    """
    errors = [error for state in states for error in state.errors]
    prior = max(assumed**2, math.fsum(errors) / len(errors) if errors else 0.0)
    squares = math.fsum((score - state.mean) ** 2 for state in states for score in state.statistics)
    degrees_of_freedom = sum(len(state.statistics) - 1 for state in states if state.statistics)
    return math.sqrt((PRIOR_WEIGHT * prior + squares) / (PRIOR_WEIGHT + degrees_of_freedom))


def _is_greedy(judgment: Judgment) -> bool:
    """Return whether the judge decodes greedily, so that another judgment would be the same."""
    settings = judgment.provenance.get("settings")
    return isinstance(settings, Mapping) and settings.get("temperature") == 0
