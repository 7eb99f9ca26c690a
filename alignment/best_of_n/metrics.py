"""What best-of-N is worth: figures for every smaller N from one sampling, with confidence intervals over prompts. Pure.

For n < N samples the figure is not that of the first n, but the mean over all subsets of n samples. Samples of a prompt
are drawn alike, so both are unbiased; the mean over subsets scatters less, and is as cheap: of the samples in the order
in which they are chosen, the one at place j (from 0) is the best of C(N - 1 - j, n - 1) of the C(N, n) subsets. For
pass@n this is the estimator of arXiv 2107.03374.

The order is that of all N. Where each answer is judged by itself, leaving others out does not change it. Where answers
were compared, and in a knock-out or successive halving, which look at most of them but briefly, a smaller field might
have ended otherwise, and the figures for n < N are estimates of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from flex_judge.judges.errors import UsageError

CONFIDENCE = 0.95
RESAMPLES = 2000
MAX_BOOTSTRAPPED = 2000
"""Prompts up to which the interval is bootstrapped. With more, the normal law gives the same and needs no memory."""


@dataclass(frozen=True)
class LabelledSamples:
    """A prompt's answers, of which it is known whether they are right."""

    ranking: tuple[int, ...]
    """The answers that have a verdict, best first, as indexes: `Selection.ranking`."""
    right: tuple[bool, ...]
    """Of every answer, in the order in which they were sampled. Ground truth: it measures, and never chooses."""


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts."""

    value: float
    low: float | None
    """Lower end of the confidence interval; None where one prompt is all there is to go by."""
    high: float | None
    count: int
    """Prompts that it is the mean of."""


@dataclass(frozen=True)
class Accuracies:
    """Shares of prompts answered rightly. A prompt of which no answer has a verdict counts as not right."""

    pass_at_1: Estimate
    """By the first sample (pass@1)."""
    random: Estimate
    """By one sample, drawn at random: the mean over samples."""
    best: Mapping[int, Estimate]
    """By the judge's choice of n samples."""
    pass_at: Mapping[int, Estimate]
    """By at least one of n samples: what a perfect judge would come to."""
    gain: Estimate
    """What the choice of all samples gains over one drawn at random, prompt by prompt."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compute_accuracies(prompts: Iterable[LabelledSamples], seed: int = 0) -> Accuracies:
    """Accuracies for each n of `sizes`.

    Args:
        prompts: all of a run, read once. Those without a single verdict belong among them, or the figures flatter.
        seed: of the bootstrap.

    Raises:
        UsageError: there is no prompt, one has no answer, or they do not have the same number of them.
    """
    first, random, gain = MeanEstimator(), MeanEstimator(), MeanEstimator(shares=False)
    best: dict[int, MeanEstimator] = {}
    oracle: dict[int, MeanEstimator] = {}
    count = None
    for prompt in prompts:
        count = _check_same_count(count, len(prompt.right))
        right = sum(prompt.right)
        first.add(float(prompt.right[0]))
        random.add(right / count)
        for n in list_sample_sizes(count):
            best.setdefault(n, MeanEstimator()).add(_compute_selection_accuracy(prompt, n))
            oracle.setdefault(n, MeanEstimator()).add(_compute_pass_at(right, count, n))
        gain.add(_compute_selection_accuracy(prompt, count) - right / count)
    if count is None:
        raise UsageError("prompts: expected one or more, got none")
    return Accuracies(
        pass_at_1=first.estimate(seed),
        random=random.estimate(seed),
        best={n: mean.estimate(seed) for n, mean in best.items()},
        pass_at={n: mean.estimate(seed) for n, mean in oracle.items()},
        gain=gain.estimate(seed),
    )


def compute_best_scores(scores: Iterable[Sequence[float | None]], seed: int = 0) -> dict[int, Estimate]:
    """The mean score of the best of n, for each n of `sizes`, where there is no ground truth.

    It is the score by which it was chosen, so with n it also grows by the judge's noise alone: compare it between
    policies at the same n, but take no gain from it.

    Args:
        scores: for each prompt those of its answers, None where unscored; read once. A prompt without any score is left
            out, see `Estimate.count`; of others, the subsets without any.

    Raises:
        UsageError: there is no prompt with a score, or they do not have the same number of answers.
    """
    means: dict[int, MeanEstimator] = {}
    count = None
    for answers in scores:
        count = _check_same_count(count, len(answers))
        known = sorted((s for s in answers if s is not None), reverse=True)
        for n in list_sample_sizes(count) if known else ():
            means.setdefault(n, MeanEstimator()).add(_average_best_score(known, count, n))
    if not means:
        raise UsageError("scores: no prompt has an answer with a score")
    return {n: mean.estimate(seed) for n, mean in means.items()}


def list_sample_sizes(count: int) -> tuple[int, ...]:
    """The numbers of samples for which figures are given: 1, 2, 4 and so on, and all of them."""
    return (*(1 << k for k in range((count - 1).bit_length())), count)


class MeanEstimator:
    """The mean of values that come one by one, of which a bounded number is kept."""

    def __init__(self, shares: bool = True) -> None:
        """
        Args:
            shares: whether values of 0 and 1 alone count successes; differences never do.
        """
        self._kept: list[float] = []
        self._count = 0
        self._sum = self._squares = 0.0
        self._binary = shares

    def add(self, value: float) -> None:
        self._count += 1
        self._sum += value
        self._squares += value * value
        self._binary = self._binary and value in (0.0, 1.0)
        if self._count <= MAX_BOOTSTRAPPED:
            self._kept.append(value)

    def estimate(self, seed: int = 0) -> Estimate:
        """The mean, with a 95 % interval.

        Of values that are all 0 or 1 it is Wilson's; of others the percentile bootstrap over prompts, or for more than
        `MOST_RESAMPLED` of them the normal one.

        Raises:
            UsageError: there are no values.
        """
        if not self._count:
            raise UsageError("values: expected one or more, got none")
        whole = self._count == len(self._kept)
        mean = (math.fsum(self._kept) if whole else self._sum) / self._count
        return Estimate(mean, *self._compute_interval(mean, seed), self._count)

    def _compute_interval(self, mean: float, seed: int) -> tuple[float | None, float | None]:
        import numpy as np
        from scipy import stats

        if self._binary:
            wilson = stats.binomtest(round(self._sum), self._count).proportion_ci(CONFIDENCE, method="wilson")
            return float(wilson.low), float(wilson.high)
        if self._count == 1:
            return None, None
        if self._count > MAX_BOOTSTRAPPED:
            variance = max(0.0, self._squares - self._count * mean**2) / (self._count - 1)
            error = math.sqrt(variance / self._count)
            low, high = stats.norm.interval(CONFIDENCE, mean, error) if error else (mean, mean)
            return float(low), float(high)
        rng = np.random.default_rng(seed)
        found = stats.bootstrap(
            (np.asarray(self._kept),), np.mean, n_resamples=RESAMPLES, method="percentile", batch=200, random_state=rng
        ).confidence_interval
        return float(found.low), float(found.high)


def estimate_mean(values: Iterable[float], seed: int = 0, shares: bool = True) -> Estimate:
    """The mean of one value for each prompt, with its interval, see `Mean`."""
    mean = MeanEstimator(shares)
    for value in values:
        mean.add(value)
    return mean.estimate(seed)


def prefer_expected_scores(row: Mapping[str, Any]) -> list[float | None]:
    """The scores of a row that a best-of-N run wrote: expected ones, and written ones where there are none."""
    finer = zip(row["expected_scores"], row["scores"], strict=True)
    return [score if expected is None else expected for expected, score in finer]


def _compute_selection_accuracy(prompt: LabelledSamples, n: int) -> float:
    """The share of the subsets of n answers whose best is right."""
    shares = _compute_subset_shares(len(prompt.ranking), len(prompt.right), n)
    return math.fsum(share for i, share in zip(prompt.ranking, shares, strict=True) if prompt.right[i])


def _average_best_score(scores: Sequence[float], count: int, n: int) -> float:
    """The mean of the highest score over subsets of n answers; scores in falling order, of those that have one."""
    shares = _compute_subset_shares(len(scores), count, n)
    return math.fsum(score * share for score, share in zip(scores, shares, strict=True)) / math.fsum(shares)


@lru_cache(maxsize=1024)
def _compute_subset_shares(ranked: int, count: int, n: int) -> tuple[float, ...]:
    """The shares of the subsets of n of `count` answers in which each of those that are ranked is the best. They add up
    to 1 less the share of the subsets in which nobody is ranked."""
    subsets = math.comb(count, n)
    return tuple(math.comb(count - 1 - place, n - 1) / subsets for place in range(ranked))


def _compute_pass_at(right: int, count: int, n: int) -> float:
    return 1.0 - math.comb(count - right, n) / math.comb(count, n)


def _check_same_count(count: int | None, found: int) -> int:
    """The number of answers that every prompt has."""
    if not found or count not in (None, found):
        raise UsageError(
            f"prompts: expected the same number of answers to each, one or more, got from {min(count or 0, found)} to "
            f"{max(count or 0, found)}"
        )
    return found
