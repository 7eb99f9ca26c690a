"""Methods of comparing a group, on a noisy judge with known strengths: accuracy against comparisons made.

The judge is simulated, so that hundreds of groups take seconds; the project's own code pairs and fits the matches.
The strengths of a group's completions are drawn from Normal(0, spread). In each comparison the judge observes each
strength with an independent error from the standard Gumbel distribution, writes the two observations as its scores, and
prefers the higher one. The probability that a beats b is therefore 1 / (1 + exp(b - a)): the Bradley-Terry model.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.types import Comparison, Message, content_to_text
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveFloat, PositiveInt, settings_class
from flex_judge.reward.groups.collector import reward_samples
from flex_judge.reward.groups.rewards import rank_members
from flex_judge.reward.types import Method, Reward, RewardSpec, Sample

GOAL = 0.75
"""Minimum share of the rank correlation of a round robin that Swiss rounds keep, with 16 completions."""
METHODS: tuple[Method, ...] = ("knockout", "circular", "swiss", "round_robin")


@settings_class
class PairingsConfig:
    """Settings of the measurement."""

    groups: PositiveInt = setting(500, "Number of groups of each size", metavar="N")
    spread: PositiveFloat = setting(1.5, "Standard deviation of the strengths in logits", metavar="S")
    seed: NonNegativeInt = setting(0, "Seed of strengths and errors", metavar="N")


class _Group:
    """Group of completions with known strengths, and its noisy judge."""

    def __init__(self, size: int, config: PairingsConfig, number: int) -> None:
        self._rng = random.Random(f"{config.seed}/{size}/{number}")
        self.strengths = [self._rng.gauss(0.0, config.spread) for _ in range(size)]
        prompt = (Message("user", f"Question {number} of {size}?"),)
        self.samples = [Sample(prompt, str(i)) for i in range(size)]
        self.comparisons = 0

    async def judge(self, comparison: Comparison) -> Judgment:
        """Judge two completions."""
        self.comparisons += 1
        scores = tuple(
            self.strengths[int(content_to_text(response))] - math.log(-math.log(self._rng.uniform(1e-12, 1 - 1e-12)))
            for response in comparison.responses
        )
        return Judgment(comparison.id, Status.OK, scores, scores, "", preferred=int(scores[1] > scores[0]))


def run(config: PairingsConfig) -> BenchResult:
    """Judge the same groups by all methods.

    Returns:
        Ratio: rank correlation of Swiss rounds over the one of a round robin, with 16 completions.
    """
    rows = [asyncio.run(_measure_method(method, size, config)) for size in (4, 8, 16) for method in METHODS]
    correlations = {row["method"]: row["rank_correlation"] for row in rows if row["completions"] == 16}
    ratio = round(correlations["swiss"] / correlations["round_robin"], 3)
    return BenchResult("pairings", ratio, GOAL, ratio >= GOAL, {"groups": config.groups, "by_method": rows})


async def _measure_method(method: Method, size: int, config: PairingsConfig) -> dict[str, Any]:
    spec = RewardSpec(method=method, reward="rank")
    groups = [_Group(size, config, number) for number in range(config.groups)]
    by_rank, by_margin, first, first_by_margin = [], [], [], []
    for group in groups:
        rewards = await reward_samples(group.samples, spec, group.judge)
        ranks, margins = (_get_values(rewards, name) for name in ("rank", "margin"))
        by_rank.append(_correlate_ranks(ranks, group.strengths))
        by_margin.append(_correlate_ranks(margins, group.strengths))
        first.append(_compute_share_of_best(ranks, group.strengths))
        first_by_margin.append(_compute_share_of_best(margins, group.strengths))
    return {
        "completions": size,
        "method": method,
        "comparisons": math.fsum(group.comparisons for group in groups) / len(groups),
        "rank_correlation": round(math.fsum(by_rank) / len(by_rank), 3),
        "best_first": round(math.fsum(first) / len(first), 3),
        "margin_correlation": round(math.fsum(by_margin) / len(by_margin), 3),
        "best_first_by_margin": round(math.fsum(first_by_margin) / len(first_by_margin), 3),
    }


def _get_values(rewards: Sequence[Reward], name: str) -> list[float]:
    return [getattr(reward, name) for reward in rewards]


def _correlate_ranks(values: Sequence[float], strengths: Sequence[float]) -> float:
    """Compute Spearman's rank correlation with the true strengths; 0 if all values are equal."""
    a, b = (_center_ranks(rank_members(dict(enumerate(numbers)))) for numbers in (values, strengths))
    scale = math.sqrt(math.fsum(x * x for x in a) * math.fsum(x * x for x in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / scale if scale else 0.0


def _center_ranks(ranks: Mapping[int, float]) -> list[float]:
    return [ranks[i] - 0.5 for i in range(len(ranks))]


def _compute_share_of_best(values: Sequence[float], strengths: Sequence[float]) -> float:
    """Compute the probability that a random one of the completions with the highest value is truly the best."""
    top = [i for i, value in enumerate(values) if value == max(values)]
    return float(max(range(len(strengths)), key=strengths.__getitem__) in top) / len(top)
