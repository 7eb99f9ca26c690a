"""Adaptive voting compared with fixed voting, on a noisy judge of pairs.

The judge is simulated, so that thousands of comparisons take seconds and its noise is known; votes are cast and decided
by the project's own code. Each comparison has a quality difference d from Normal(0, 1). Each vote observes
d + noise * e, with e from the standard logistic distribution, prefers the response with the higher observed quality,
and is a tie within `tie_band` of 0. Given d, votes are independent. Both sides read the same votes: adaptive voting
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
"""Maximum ratio of the votes of adaptive voting to the votes of fixed voting."""
SAME_GOAL = 0.98
"""Minimum fraction of comparisons with the same decision by both."""
NOISE_LEVELS = (0.1, 0.3, 0.5, 1.0, 2.0)
CONFIDENCES = (0.9, 0.95, 0.98, 1.0)

_VERDICTS = {0: Verdict(Status.OK, (7.0, 5.0)), 1: Verdict(Status.OK, (5.0, 7.0)), None: Verdict(Status.OK, (6.0, 6.0))}


@settings_class
class VotesConfig:
    """Settings of the measurement."""

    comparisons: PositiveInt = setting(3000, "Number of pairs judged at each noise level")
    votes: PositiveInt = setting(15, "Votes per pair with fixed voting; the maximum with adaptive voting")
    confidence: Fraction = setting(VOTE_CONFIDENCE, "Confidence at which adaptive voting stops, at most 1")
    noise: NonNegativeFloat = setting(0.3, "Noise of a vote, in standard deviations of the difference in quality")
    tie_band: NonNegativeFloat = setting(0.15, "Differences below this are voted a tie")
    seed: NonNegativeInt = setting(0, "Seed of the differences and the noise")


@dataclass(frozen=True)
class _Pair:
    """Comparison with all votes of fixed voting."""

    better: int
    """Index of the response of higher quality."""
    votes: tuple[Verdict, ...]
    decision: int | None
    """Majority of all votes; None for a tie."""


def run(config: VotesConfig) -> BenchResult:
    """Measure at the configured noise and confidence, and at other levels of each.

    Returns:
        Ratio: votes of adaptive voting over votes of fixed voting. Met if the ratio is at most `GOAL` and the fraction
        of equal decisions at least `SAME_GOAL`.
    """
    pairs = _simulate_pairs(config, config.noise)
    metrics = _compute_metrics(pairs, config.confidence)
    noises = sorted({*NOISE_LEVELS, config.noise})
    by_noise = [
        {"noise": noise, **_describe_judge(level), **_compute_metrics(level, config.confidence)}
        for noise in noises
        for level in [pairs if noise == config.noise else _simulate_pairs(config, noise)]
    ]
    by_confidence = [
        {"confidence": confidence, **_compute_metrics(pairs, confidence)}
        for confidence in sorted({*CONFIDENCES, config.confidence})
    ]
    return BenchResult(
        name="votes",
        ratio=metrics["ratio"],
        goal=GOAL,
        met=bool(metrics["met"]),
        details={
            "comparisons": config.comparisons,
            "votes": config.votes,
            "confidence": config.confidence,
            "noise": config.noise,
            "tie_band": config.tie_band,
            "seed": config.seed,
            "same_decision": metrics["same"],
            "same_decision_goal": SAME_GOAL,
            "by_noise": by_noise,
            "by_confidence": by_confidence,
        },
    )


def _simulate_pairs(config: VotesConfig, noise: float) -> list[_Pair]:
    rng = random.Random(f"{config.seed}/{noise}")
    pairs = []
    for _ in range(config.comparisons):
        difference = rng.gauss(0.0, 1.0)
        votes = tuple(
            _make_vote(difference + noise * _sample_logistic(rng), config.tie_band) for _ in range(config.votes)
        )
        pairs.append(_Pair(int(difference < 0), votes, _decide(votes)))
    return pairs


def _sample_logistic(rng: random.Random) -> float:
    chance = rng.uniform(1e-12, 1 - 1e-12)  # 0 and 1 have no finite logit
    return math.log(chance / (1 - chance))


def _make_vote(observed: float, tie_band: float) -> Verdict:
    return _VERDICTS[None if abs(observed) <= tie_band else int(observed < 0)]


def _decide(votes: Sequence[Verdict]) -> int | None:
    return combine_votes("", [[vote] for vote in votes]).preferred


def _describe_judge(pairs: Sequence[_Pair]) -> dict[str, float]:
    """Describe the judge: how often one vote equals the majority, and how often the majority is a tie or right."""
    agreeing = sum(vote.preferred == pair.decision for pair in pairs for vote in pair.votes)
    return {
        "one_vote_agrees": agreeing / sum(len(pair.votes) for pair in pairs),
        "ties": sum(pair.decision is None for pair in pairs) / len(pairs),
        "fixed_right": sum(pair.decision == pair.better for pair in pairs) / len(pairs),
    }


def _compute_metrics(pairs: Sequence[_Pair], confidence: float) -> dict[str, float]:
    cast = waves = same = right = 0
    for pair in pairs:
        votes: tuple[Verdict, ...] = ()
        while wave := plan_next_wave(VoteTally.from_votes(votes, responses=2), len(pair.votes), confidence):
            votes = pair.votes[: len(votes) + wave]
            waves += 1
        decision = _decide(votes)
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
