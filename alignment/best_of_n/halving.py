"""Successive halving: a judge's votes go where the top is still undecided.

Everyone is judged once. Of those, the better half is judged again, then the better half of these, each round with as
many judgments in all as the one before (sequential halving: Karnin, Koren and Somekh, ICML 2013; Jamieson and
Talwalkar, arXiv 1502.07943). One more than half stays, as whoever stands next to the line is there by chance. Beyond
that, whoever is behind the leader by more than the judge's noise explains is left out at once, and the race ends when
nobody else is left.
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
"""(candidate, number of the draw) -> a judgment of that candidate alone."""
PRIOR_NOISE = 1 / 6
"""How far the judgments of one response are taken to scatter before there are two: standard deviation, as a share of
the rubric's scale. Of a scale of 1 to 10 that is 1.5, which is much: who is given up for one judgment does not come
back, and if the judge scatters less, the next round shows it."""
PRIOR_WEIGHT = 2.0
"""How many differences between judgments the prior counts as."""
MAX_UNSCORED_TRIES = 2
"""Judgments asked for of a candidate of which none has a score."""


@dataclass(frozen=True)
class HalvingRules:
    """How a race is run."""

    votes: int
    """Judgments of one candidate at most."""
    budget: int
    """Judgments of all candidates together at most; but everyone is judged once."""
    confidence: float
    """How sure it must be that a candidate stays behind the leader before it is left out for that; from 0.5 to 1."""
    noise: float
    """Standard deviation between judgments of one response that is assumed at first, in points of the scale."""


@dataclass(frozen=True)
class CandidateState:
    """What the judge has said of one candidate so far."""

    statistics: tuple[float, ...] = ()
    """Of each judgment that has one, the expected score, or the written one."""
    errors: tuple[float, ...] = ()
    """The variances of those figures, as far as the judgments know them: what they say of their spread, divided by
    their votes."""
    asked: int = 0
    """Judgments asked for, without a score too."""
    in_vain: bool = False
    """Whether the last one failed as any other would."""

    @property
    def mean(self) -> float:
        return math.fsum(self.statistics) / len(self.statistics)

    @property
    def needs_score(self) -> bool:
        """Whether it has no score yet but may get one."""
        return not self.statistics and not self.in_vain and self.asked < MAX_UNSCORED_TRIES

    def with_judgment(self, judgment: Judgment) -> CandidateState:
        said = Match((0,), judgment).best_scores
        if said is None:
            return replace(self, asked=self.asked + 1, in_vain=judgment.status == Status.OVERLONG)
        votes = sum(vote.scores is not None for vote in judgment.votes) or 1
        known = () if judgment.spread is None else (judgment.spread[0] ** 2 / votes,)
        return replace(
            self, statistics=(*self.statistics, said[0]), errors=(*self.errors, *known), asked=self.asked + 1
        )


@dataclass(frozen=True)
class HalvingResult:
    """What came of it."""

    matches: tuple[Match, ...]
    """Every judgment, by candidate and draw within each round."""
    worth: Mapping[int, tuple[int, float]]
    """What scored candidates are ordered by: how many rounds each was among the contenders, and its mean score."""


async def run_halving(field: Sequence[int], vote: JudgeCandidate, rules: HalvingRules) -> HalvingResult:
    """Run a race. The judgments of a round are asked for side by side.

    Args:
        field: the candidates; where the line between the better half and the rest runs among equals, those that come
            first here stay.
        vote: has one of them judged; a failure is a judgment with a status.

    Raises:
        JudgeError: whatever `vote` raises first; the rest of the round's work is then cancelled.
    """
    heard = dict.fromkeys(field, CandidateState())
    rounds = max(1, (len(field) - 1).bit_length())
    reached = dict.fromkeys(field, 0)
    matches: list[Match] = []
    running, wave, held = list(field), dict.fromkeys(field, 1), 0
    while wave:
        asked = [(i, heard[i].asked + k) for i, more in wave.items() for k in range(more)]
        judgments = await gather_all(vote(i, sample_index) for i, sample_index in asked)
        for (i, _), judgment in zip(asked, judgments, strict=True):
            heard[i] = heard[i].with_judgment(judgment)
            matches.append(Match((i,), judgment))
        held += 1
        ahead = select_contenders({i: heard[i] for i in running}, -(-len(field) >> held) + 1, rules)
        reached |= dict.fromkeys(ahead, held)
        unheard = [i for i in running if heard[i].needs_score and heard[i].asked < rules.votes]
        if all(map(_is_greedy, judgments)):
            break
        running = [*ahead, *unheard]
        wave = plan_next_wave(heard, ahead, unheard, rules.budget // rounds, rules)
    return HalvingResult(tuple(matches), {i: (reached[i], heard[i].mean) for i in field if heard[i].statistics})


def select_contenders(heard: Mapping[int, CandidateState], most: int, rules: HalvingRules) -> list[int]:
    """Those who may still come out on top: at most so many, the best first, and none that is behind the leader beyond
    doubt."""
    ranked = sorted((i for i in heard if heard[i].statistics), key=lambda i: -heard[i].mean)[:most]
    noise = estimate_noise(list(heard.values()), rules.noise)
    return [i for i in ranked if i == ranked[0] or not is_behind(heard[i], heard[ranked[0]], noise, rules)]


def plan_next_wave(
    heard: Mapping[int, CandidateState],
    ahead: Sequence[int],
    unheard: Sequence[int],
    per_round: int,
    rules: HalvingRules,
) -> dict[int, int]:
    """How many more judgments each candidate gets; none when it is decided, or when there are none left to give.

    Those without a score are asked about once more. The rest of the round is shared evenly among the contenders, but
    nobody's judgments more than triple, so that it can end as soon as enough is known.
    """
    left = rules.budget - sum(h.asked for h in heard.values())
    wave = dict.fromkeys(unheard[: max(0, left)], 1)
    left -= len(wave)
    if len(ahead) > 1:
        each = min(max(1, per_round // len(ahead)), left // len(ahead))
        shares = {i: min(each, 2 * heard[i].asked, rules.votes - heard[i].asked) for i in ahead}
        wave |= {i: share for i, share in shares.items() if share > 0}
    return wave


def is_behind(candidate: CandidateState, leader: CandidateState, noise: float, rules: HalvingRules) -> bool:
    """Whether a candidate would stay behind the leader if both were given all votes, as sure as the rules ask.

    A mean of n votes and the mean that V votes come to, of which they are the first, differ with variance
    noise^2 (1/n - 1/V): with all votes cast nothing is left open.
    """
    gap = leader.mean - candidate.mean
    unknown = sum(max(0.0, 1 / len(h.statistics) - 1 / rules.votes) for h in (candidate, leader))
    if gap <= 0 or unknown <= 0:
        return gap > 0
    if rules.confidence >= 1:
        return False
    return gap > NormalDist().inv_cdf(rules.confidence) * noise * math.sqrt(unknown)


def estimate_noise(heard: Sequence[CandidateState], assumed: float) -> float:
    """The standard deviation between judgments of one response, of all candidates together about the mean of each.

    What was assumed counts as `PRIOR_WEIGHT` differences; where the judge itself says that it is less sure than that,
    what it says does.
    """
    said = [error for h in heard for error in h.errors]
    prior = max(assumed**2, math.fsum(said) / len(said) if said else 0.0)
    squares = math.fsum((figure - h.mean) ** 2 for h in heard for figure in h.statistics)
    freedom = sum(len(h.statistics) - 1 for h in heard if h.statistics)
    return math.sqrt((PRIOR_WEIGHT * prior + squares) / (PRIOR_WEIGHT + freedom))


def _is_greedy(judgment: Judgment) -> bool:
    """Whether the judge would say the same again, by what it tells of its settings."""
    settings = judgment.provenance.get("settings")
    return isinstance(settings, Mapping) and settings.get("temperature") == 0
