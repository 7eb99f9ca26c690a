"""Adaptive voting against fixed voting, on a noisy judge of pairs.

The judge is made up, so that thousands of comparisons take seconds and its noise is known; what casts votes and decides
is the project's own code. Each comparison has a difference of quality d, drawn from Normal(0, 1). Each vote sees
d + noise * e, with e from the standard logistic distribution, prefers the response that this speaks for, and calls a
tie where it is within `tie_band` of 0. Given d, votes are independent. Both sides read the same votes: adaptive voting
the first ones, fixed voting all of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.judgments import Status, Verdict
from flex_judge.judges.protocol.voting import VOTE_CONFIDENCE, VoteTally, combine_votes, plan_next_wave
from flex_judge.judges.validation.classes import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, settings_class

GOAL = 0.5
"""Votes cast by adaptive voting, as a share of those of fixed voting: at most."""
SAME_GOAL = 0.98
"""Share of comparisons in which both come to the same decision: at least."""
NOISE_LEVELS = (0.1, 0.3, 0.5, 1.0, 2.0)
CONFIDENCES = (0.9, 0.95, 0.98, 1.0)

_VERDICTS = {0: Verdict(Status.OK, (7.0, 5.0)), 1: Verdict(Status.OK, (5.0, 7.0)), None: Verdict(Status.OK, (6.0, 6.0))}


@settings_class
class VotesConfig:
    """Settings of the bench."""

    comparisons: PositiveInt = setting(3000, "Number of pairs judged at each noise level")
    votes: PositiveInt = setting(15, "Votes per pair with fixed voting; the maximum with adaptive voting")
    confidence: Fraction = setting(VOTE_CONFIDENCE, "Confidence at which adaptive voting stops, at most 1")
    noise: NonNegativeFloat = setting(0.3, "Noise of a vote, in standard deviations of the difference in quality")
    tie_band: NonNegativeFloat = setting(0.15, "Differences below this are voted a tie")
    seed: NonNegativeInt = setting(0, "Seed of the differences and the noise")


@dataclass(frozen=True)
class _Pair:
    """A comparison as fixed voting sees it."""

    better: int
    """The response of higher quality."""
    votes: tuple[Verdict, ...]
    decision: int | None
    """What all votes come to."""


def run(config: VotesConfig) -> BenchResult:
    """Measure at the configured noise and confidence, and at other levels of either.

    Returns:
        As ratio, the votes of adaptive voting over those of fixed voting. Met if that is at most `GOAL` and the
        share of same decisions at least `SAME_GOAL`.
    """
    pairs = _pairs(config, config.noise)
    figures = _figures(pairs, config.confidence)
    noises = sorted({*NOISE_LEVELS, config.noise})
    by_noise = [
        {"noise": noise, **_judge_figures(level), **_figures(level, config.confidence)}
        for noise in noises
        for level in [pairs if noise == config.noise else _pairs(config, noise)]
    ]
    by_confidence = [
        {"confidence": confidence, **_figures(pairs, confidence)}
        for confidence in sorted({*CONFIDENCES, config.confidence})
    ]
    return BenchResult(
        name="votes",
        ratio=figures["ratio"],
        goal=GOAL,
        met=bool(figures["met"]),
        details={
            "comparisons": config.comparisons,
            "votes": config.votes,
            "confidence": config.confidence,
            "noise": config.noise,
            "tie_band": config.tie_band,
            "seed": config.seed,
            "same_decision": figures["same"],
            "same_decision_goal": SAME_GOAL,
            "by_noise": by_noise,
            "by_confidence": by_confidence,
        },
    )


def _pairs(config: VotesConfig, noise: float) -> list[_Pair]:
    rng = random.Random(f"{config.seed}/{noise}")
    pairs = []
    for _ in range(config.comparisons):
        difference = rng.gauss(0.0, 1.0)
        votes = tuple(_vote(difference + noise * _logistic(rng), config.tie_band) for _ in range(config.votes))
        pairs.append(_Pair(int(difference < 0), votes, _decision(votes)))
    return pairs


def _logistic(rng: random.Random) -> float:
    chance = rng.uniform(1e-12, 1 - 1e-12)  # neither 0 nor 1
    return math.log(chance / (1 - chance))


def _vote(seen: float, tie_band: float) -> Verdict:
    return _VERDICTS[None if abs(seen) <= tie_band else int(seen < 0)]


def _decision(votes: Sequence[Verdict]) -> int | None:
    return combine_votes("", [[vote] for vote in votes]).preferred


def _judge_figures(pairs: Sequence[_Pair]) -> dict[str, float]:
    """What the judge is like: how often one vote says what all come to, how often that is a tie, or right."""
    agreeing = sum(vote.preferred == pair.decision for pair in pairs for vote in pair.votes)
    return {
        "one_vote_agrees": agreeing / sum(len(pair.votes) for pair in pairs),
        "ties": sum(pair.decision is None for pair in pairs) / len(pairs),
        "fixed_right": sum(pair.decision == pair.better for pair in pairs) / len(pairs),
    }


def _figures(pairs: Sequence[_Pair], confidence: float) -> dict[str, float]:
    cast = waves = same = right = 0
    for pair in pairs:
        votes: tuple[Verdict, ...] = ()
        while wave := plan_next_wave(VoteTally.from_votes(votes, responses=2), len(pair.votes), confidence):
            votes = pair.votes[: len(votes) + wave]
            waves += 1
        decision = _decision(votes)
        cast += len(votes)
        same += decision == pair.decision
        right += decision == pair.better
    ratio = cast / sum(len(pair.votes) for pair in pairs)
    return {
        "ratio": ratio,
        "same": same / len(pairs),
        "adaptive_right": right / len(pairs),
        "waves": waves / len(pairs),
        "met": ratio <= GOAL and same / len(pairs) >= SAME_GOAL,
    }
