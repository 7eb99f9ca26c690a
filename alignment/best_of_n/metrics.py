"""Best-of-N metrics: accuracy for every n up to N from one set of samples, with confidence intervals over prompts.

The accuracy at n < N is the mean over all subsets of n samples, not the result of the first n. Both are unbiased, but
the mean over subsets has less variance. It is cheap to compute: of the C(N, n) subsets, the sample at rank j (from 0)
is the best of C(N - 1 - j, n - 1). For pass@n this is the estimator of arXiv 2107.03374.

The ranking is the one of all N samples. If each answer is judged by itself, leaving samples out does not change it. If
answers are compared with each other, or by knock-out or successive halving, a smaller group might have ended
differently; there the numbers for n < N are approximations.
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
"""Maximum number of prompts for bootstrap intervals; above it, the normal approximation is as good."""


@dataclass(frozen=True)
class LabelledSamples:
    """Answers to one prompt, with ground truth."""

    ranking: tuple[int, ...]
    """Indexes of the answers that have a verdict, best first, as in `Selection.ranking`."""
    right: tuple[bool, ...]
    """Whether each answer is right, in sampling order. Used for measuring only, never for choosing."""


@dataclass(frozen=True)
class Estimate:
    """Mean over prompts with a confidence interval."""

    value: float
    low: float | None
    """Lower end of the 95 % confidence interval; None if there is only one prompt."""
    high: float | None
    """Upper end of the interval."""
    count: int
    """Number of prompts in the mean."""


@dataclass(frozen=True)
class Accuracies:
    """Fractions of prompts answered correctly. A prompt whose answers all lack a verdict counts as wrong."""

    pass_at_1: Estimate
    """Accuracy of the first sample (pass@1)."""
    random: Estimate
    """Accuracy of one randomly chosen sample: the mean over samples."""
    best: Mapping[int, Estimate]
    """n -> accuracy of the judge's choice among n samples."""
    pass_at: Mapping[int, Estimate]
    """n -> fraction with at least one correct answer among n samples (pass@n): the accuracy of a perfect judge."""
    gain: Estimate
    """Gain of the choice among all samples over a random sample, paired by prompt."""

    def to_json(self) -> dict[str, Any]:
        """Return the accuracies as plain JSON values."""
        return asdict(self)


def compute_accuracies(prompts: Iterable[LabelledSamples], seed: int = 0) -> Accuracies:
    """Compute the accuracies for each n of `list_sample_sizes`.

    Args:
        prompts: All prompts of a run, iterated once. Include prompts without a verdict, or the result is biased upward.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: There is no prompt, one has no answer, or the prompts have different numbers of answers.
    """
    first, random, gain = MeanEstimator(), MeanEstimator(), MeanEstimator(shares=False)
    best: dict[int, MeanEstimator] = {}
    pass_at: dict[int, MeanEstimator] = {}
    count = None
    for prompt in prompts:
        count = _check_same_count(count, len(prompt.right))
        right = sum(prompt.right)
        first.add(float(prompt.right[0]))
        random.add(right / count)
        for n in list_sample_sizes(count):
            best.setdefault(n, MeanEstimator()).add(_compute_selection_accuracy(prompt, n))
            pass_at.setdefault(n, MeanEstimator()).add(_compute_pass_at(right, count, n))
        gain.add(_compute_selection_accuracy(prompt, count) - right / count)
    if count is None:
        raise UsageError("prompts: expected one or more, got none")
    return Accuracies(
        pass_at_1=first.estimate(seed),
        random=random.estimate(seed),
        best={n: mean.estimate(seed) for n, mean in best.items()},
        pass_at={n: mean.estimate(seed) for n, mean in pass_at.items()},
        gain=gain.estimate(seed),
    )


def compute_best_scores(scores: Iterable[Sequence[float | None]], seed: int = 0) -> dict[int, Estimate]:
    """Compute the mean score of the best of n answers, for each n of `list_sample_sizes`. Needs no ground truth.

    The score is also what the choice was made by, so it grows with n from the judge's noise alone. Compare it between
    policies at the same n; do not read it as a gain.

    Args:
        scores: Scores of each prompt's answers, None if unscored; iterated once. A prompt without any score is left out
            of the mean (see `Estimate.count`); for other prompts, subsets without a score are left out.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: No prompt has a score, or the prompts have different numbers of answers.
    """
    means: dict[int, MeanEstimator] = {}
    count = None
    for answer_scores in scores:
        count = _check_same_count(count, len(answer_scores))
        ranked = sorted((score for score in answer_scores if score is not None), reverse=True)
        if not ranked:
            continue
        for n in list_sample_sizes(count):
            means.setdefault(n, MeanEstimator()).add(_average_best_score(ranked, count, n))
    if not means:
        raise UsageError("scores: no prompt has an answer with a score")
    return {n: mean.estimate(seed) for n, mean in means.items()}


def list_sample_sizes(count: int) -> tuple[int, ...]:
    """List the sample sizes to report: powers of two below `count`, and `count`."""
    return (*(1 << k for k in range((count - 1).bit_length())), count)


class MeanEstimator:
    """Running mean in bounded memory."""

    def __init__(self, shares: bool = True) -> None:
        """Start an empty mean.

        Args:
            shares: Whether values that are all 0 or 1 count successes. Set it to False for differences, which may
                happen to be 0 and 1 as well.
        """
        self._values: list[float] = []
        self._count = 0
        self._sum = self._squares = 0.0
        self._is_binary = shares

    def add(self, value: float) -> None:
        """Add one value."""
        self._count += 1
        self._sum += value
        self._squares += value * value
        self._is_binary = self._is_binary and value in (0.0, 1.0)
        if self._count <= MAX_BOOTSTRAPPED:
            self._values.append(value)

    def estimate(self, seed: int = 0) -> Estimate:
        """Return the mean with a 95 % confidence interval.

        Uses Wilson's interval if all values are 0 or 1, else the percentile bootstrap over prompts, else (for more than
        `MAX_BOOTSTRAPPED` values) the normal interval.

        Raises:
            UsageError: There are no values.
        """
        if not self._count:
            raise UsageError("values: expected one or more, got none")
        # fsum is exact while all values are kept; beyond that the running sum has to do.
        total = math.fsum(self._values) if self._count == len(self._values) else self._sum
        mean = total / self._count
        return Estimate(mean, *self._compute_interval(mean, seed), self._count)

    def _compute_interval(self, mean: float, seed: int) -> tuple[float | None, float | None]:
        import numpy as np
        from scipy import stats

        if self._is_binary:
            return compute_wilson_interval(mean, self._count)
        if self._count == 1:
            return None, None
        if self._count > MAX_BOOTSTRAPPED:
            # Rounding can make the difference of sums slightly negative.
            variance = max(0.0, self._squares - self._count * mean**2) / (self._count - 1)
            error = math.sqrt(variance / self._count)
            # scipy returns nan for an error of 0.
            low, high = stats.norm.interval(CONFIDENCE, mean, error) if error else (mean, mean)
            return float(low), float(high)
        interval = stats.bootstrap(
            (np.asarray(self._values),),
            np.mean,
            n_resamples=RESAMPLES,
            method="percentile",
            batch=200,  # bounds the memory of the resample matrix
            random_state=np.random.default_rng(seed),
        ).confidence_interval
        return float(interval.low), float(interval.high)


def compute_wilson_interval(share: float, count: float) -> tuple[float, float]:
    """Compute Wilson's 95 % score interval of a share, which keeps its coverage near 0 and 1.

    Args:
        share: The share, from 0 to 1. If trials can succeed in part (several votes on one item), the mean of their
            successes: the interval is then wider than needed.
        count: Number of independent trials; for a weighted share, the effective number.
    """
    from scipy import stats

    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    scale = 1 + z**2 / count
    center = (share + z**2 / (2 * count)) / scale
    margin = z / scale * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    # Rounding can leave the ends just outside the unit interval, or the share just outside its own interval.
    return max(0.0, min(share, center - margin)), min(1.0, max(share, center + margin))


def estimate_mean(values: Iterable[float], seed: int = 0, shares: bool = True) -> Estimate:
    """Estimate the mean of one value per prompt, with its interval; see `MeanEstimator` for the arguments."""
    mean = MeanEstimator(shares)
    for value in values:
        mean.add(value)
    return mean.estimate(seed)


def prefer_expected_scores(row: Mapping[str, Any]) -> list[float | None]:
    """Return the scores of a best-of-N row: the expected score where there is one, else the written score."""
    pairs = zip(row["expected_scores"], row["scores"], strict=True)
    return [written if expected is None else expected for expected, written in pairs]


def _compute_selection_accuracy(prompt: LabelledSamples, n: int) -> float:
    """Compute the fraction of subsets of n answers whose best answer is right."""
    shares = _compute_subset_shares(len(prompt.ranking), len(prompt.right), n)
    return math.fsum(share for i, share in zip(prompt.ranking, shares, strict=True) if prompt.right[i])


def _average_best_score(scores: Sequence[float], count: int, n: int) -> float:
    """Average the highest score over all subsets of n answers; `scores` are the scored ones, descending."""
    shares = _compute_subset_shares(len(scores), count, n)
    return math.fsum(score * share for score, share in zip(scores, shares, strict=True)) / math.fsum(shares)


@lru_cache(maxsize=1024)  # most prompts of a run have the same counts
def _compute_subset_shares(ranked: int, count: int, n: int) -> tuple[float, ...]:
    """Compute the fraction of subsets of n of `count` answers that each rank wins.

    The fractions sum to 1 minus the fraction of subsets without any ranked answer.
    """
    subsets = math.comb(count, n)
    return tuple(math.comb(count - 1 - rank, n - 1) / subsets for rank in range(ranked))


def _compute_pass_at(right: int, count: int, n: int) -> float:
    """Compute the fraction of subsets of n answers with at least one right answer."""
    return 1.0 - math.comb(count - right, n) / math.comb(count, n)


def _check_same_count(expected: int | None, count: int) -> int:
    """Return `count`, or raise UsageError if it is 0 or differs from the number of answers of earlier prompts."""
    if not count or expected not in (None, count):
        raise UsageError(
            "prompts: expected the same number of answers for each prompt, one or more; got from "
            f"{min(expected or 0, count)} to {max(expected or 0, count)}"
        )
    return count
