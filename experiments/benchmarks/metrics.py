"""Metrics of the benchmarks with intervals over items: Wilson's for shares, the bootstrap for all others.

An item without a verdict has no value. Shares are reported twice: over the items with a verdict, and with the others
counted as wrong (`strict`). Correlations are reported over the items with a verdict only, with the number of items.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import permutations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flex_judge.alignment.best_of_n.metrics import CONFIDENCE, compute_wilson_interval

RESAMPLES = 1000
MAX_ORDERS = 5040
"""Maximum number of orders tried for responses with equal scores: 7!, so up to seven tied responses are exact."""
Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]
Numbers = Sequence[float] | Floats
Statistic = Callable[[Indexes], float]
"""Function of the item indexes of a bootstrap resample."""


@dataclass(frozen=True)
class BenchmarkMetric:
    """Metric of a judge on a benchmark."""

    value: float | None
    """Value over the items with a verdict; None if undefined, because there are no items or all scores are equal."""
    low: float | None = None
    """Lower end of the 95 % interval over items; None if undefined, as for a correlation of fewer than two items."""
    high: float | None = None
    """Upper end of the interval."""
    count: int = 0
    """Number of items with a verdict."""
    strict: float | None = None
    """Value with items without a verdict counted as wrong; None for metrics that are not shares."""
    strict_low: float | None = None
    """Lower end of the interval of `strict`."""
    strict_high: float | None = None
    """Upper end of the interval of `strict`."""
    asked: int = 0
    """Number of all items."""

    def with_strict(self, strict: BenchmarkMetric) -> BenchmarkMetric:
        """Return this metric with the strict values taken from a metric over all items."""
        return replace(
            self,
            strict=strict.value,
            strict_low=strict.low,
            strict_high=strict.high,
            asked=max(self.asked, strict.count),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the metric as plain JSON values."""
        return asdict(self)


def bootstrap_metric(statistic: Statistic, count: int, seed: int = 0, **fields: Any) -> BenchmarkMetric:
    """Compute a statistic of `count` items with its percentile bootstrap interval (scipy).

    Resamples on which the statistic is undefined (for example, because all scores are equal) are left out.

    Args:
        statistic: Function of item indexes.
        count: Number of items.
        seed: Seed of the bootstrap.
        **fields: Other fields of the metric.
    """
    from scipy import stats

    if not count:
        return BenchmarkMetric(None, **fields)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about undefined resamples, which are handled below
        value = float(statistic(np.arange(count)))
        if math.isnan(value):
            return BenchmarkMetric(None, count=count, **fields)
        if count < 2:
            return BenchmarkMetric(value, count=count, **fields)
        distribution = stats.bootstrap(
            (np.arange(count),),
            statistic,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
        low, high = np.nanquantile(distribution, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return BenchmarkMetric(value, float(low), float(high), count, **fields)


def compute_share(credits: Sequence[float | None], strict_credits: Sequence[float]) -> BenchmarkMetric:
    """Compute the mean credit of the items, with Wilson's intervals over items.

    Several verdicts on one item are not independent, so each item counts as one trial, with its mean credit.

    Args:
        credits: Credit of each item over its verdicts, from 0 to 1; None without a verdict.
        strict_credits: Credit of each item with missing verdicts counted as wrong.
    """
    scored = [credit for credit in credits if credit is not None]
    return _estimate_share(scored).with_strict(_estimate_share(strict_credits))


def compute_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> BenchmarkMetric:
    """Compute a ratio of sums over items, such as right verdicts over all decisive verdicts, with Wilson's interval.

    Args:
        numerators: Numerator of each item, at most the denominator.
        denominators: Denominator of each item; an item with 0 does not contribute.
    """
    count = sum(denominator > 0 for denominator in denominators)
    if not count:
        return BenchmarkMetric(None, asked=len(denominators))
    share = math.fsum(numerators) / math.fsum(denominators)
    low, high = compute_wilson_interval(share, count)
    return BenchmarkMetric(share, low, high, count, asked=len(denominators))


def average_groups(
    credits: Sequence[float | None],
    strict_credits: Sequence[float],
    groups: Sequence[str],
    weights: Sequence[float] | None = None,
    bootstrap_seed: int | None = None,
) -> BenchmarkMetric:
    """Compute the unweighted mean of the groups' means.

    The interval of a mean of shares is Wilson's, with the number of items whose simple share would have the same
    variance (see `_count_effective_items`).

    Args:
        credits: Credit of each item over its verdicts; None without a verdict.
        strict_credits: Credit of each item with missing verdicts counted as wrong.
        groups: Group of each item.
        weights: Weight of each item within its group; None for equal weights.
        bootstrap_seed: Seed of a bootstrap interval, for credits that are no shares.
    """
    all_weights = np.ones(len(strict_credits)) if weights is None else np.array(weights, dtype=np.float64)
    scored = [i for i, credit in enumerate(credits) if credit is not None]

    def average_items(items: Sequence[int], values: Sequence[float | None]) -> BenchmarkMetric:
        item_values = np.array([values[i] for i in items], dtype=np.float64)
        indexes, item_weights = _index_names([groups[i] for i in items]), all_weights[list(items)]
        if bootstrap_seed is not None:
            return bootstrap_metric(
                lambda at: _macro_mean(item_values[at], indexes[at], item_weights[at]), len(items), bootstrap_seed
            )
        if not items:
            return BenchmarkMetric(None)
        share = _macro_mean(item_values, indexes, item_weights)
        low, high = compute_wilson_interval(share, _count_effective_items(indexes, item_weights))
        return BenchmarkMetric(share, low, high, len(items))

    metric = average_items(scored, credits)
    if list(credits) == list(strict_credits):
        return metric.with_strict(metric)  # saves a second bootstrap
    return metric.with_strict(average_items(range(len(strict_credits)), strict_credits))


def _estimate_share(credits: Sequence[float]) -> BenchmarkMetric:
    if not credits:
        return BenchmarkMetric(None)
    share = math.fsum(credits) / len(credits)
    low, high = compute_wilson_interval(share, len(credits))
    return BenchmarkMetric(share, low, high, len(credits))


def _count_effective_items(groups: Indexes, weights: Floats) -> float:
    """Count the items of a simple share with the variance of the mean over groups (Kish's effective sample size)."""
    group_counts = np.bincount(groups, weights=weights) ** 2 / np.bincount(groups, weights=weights**2)
    return float(len(group_counts) ** 2 / (1 / group_counts).sum())


def pearson(scores: Numbers, labels: Numbers) -> float:
    """Compute Pearson's correlation (scipy); nan if either is constant or there are fewer than two values."""
    from scipy import stats

    return float(stats.pearsonr(scores, labels).statistic) if _has_variance(scores, labels) else math.nan


def spearman(scores: Numbers, labels: Numbers) -> float:
    """Compute Spearman's rank correlation (scipy); nan if either is constant or there are fewer than two values."""
    from scipy import stats

    return float(stats.spearmanr(scores, labels).statistic) if _has_variance(scores, labels) else math.nan


def mean_squared_error(scores: Numbers, labels: Numbers) -> float:
    """Compute the mean squared difference (scikit-learn); nan without values."""
    from sklearn.metrics import mean_squared_error as sklearn_mse

    return float(sklearn_mse(labels, scores)) if len(scores) else math.nan


def system_means(values: Floats, systems: Indexes, weights: Floats | None = None) -> Floats:
    """Compute the mean over the items of each system, in order of their indexes, without systems that have no items."""
    sums = np.bincount(systems, weights=values if weights is None else values * weights)
    totals = np.bincount(systems, weights=weights)
    return np.asarray(sums[totals > 0] / totals[totals > 0])


def precision_recall_f1(
    predictions: Sequence[Sequence[str]], labels: Sequence[str], seed: int = 0
) -> tuple[BenchmarkMetric, ...]:
    """Compute macro precision, recall and F1 over the labels that occur (scikit-learn), with intervals over items.

    A label that is never predicted has precision 0.

    Args:
        predictions: Predictions of each item, one per verdict.
        labels: Label of each item.
        seed: Seed of the bootstrap.
    """
    from sklearn.metrics import precision_recall_fscore_support

    # Count each (prediction, label) pair per item once; a resample is then a sum of rows of this table.
    rows = [(i, f"{prediction}\n{label}") for i, label in enumerate(labels) for prediction in predictions[i]]
    pairs, columns = number_names([pair for _, pair in rows])
    predicted = [pair.split("\n")[0] for pair in pairs]
    expected = [pair.split("\n")[1] for pair in pairs]
    table = np.zeros((len(labels), len(pairs)), dtype=np.int64)
    # add.at accumulates repeated indexes, which plain indexing would count once.
    np.add.at(table, (np.array([i for i, _ in rows], dtype=np.int64), columns), 1)

    @lru_cache(maxsize=2 * RESAMPLES)  # the three metrics use the same resamples
    def macro_averages(counts: tuple[int, ...]) -> tuple[float, float, float]:
        averages = precision_recall_fscore_support(
            expected, predicted, labels=sorted(set(labels)), average="macro", zero_division=0, sample_weight=counts
        )
        return float(averages[0]), float(averages[1]), float(averages[2])

    def pick_average(k: int) -> Statistic:
        return lambda at: macro_averages(tuple(table[at].sum(0).tolist()))[k]

    return tuple(bootstrap_metric(pick_average(k), len(labels), seed) for k in range(3))


def ranking_distance(scores: Sequence[float], label: Sequence[int]) -> float:
    """Compute the normalised Levenshtein distance between the ranking by scores and the human one; 0 if equal.

    Responses with equal scores have no order, so the distance is averaged over their possible orders.

    Args:
        scores: Score of each response.
        label: Response indexes, best first.
    """
    from rapidfuzz.distance import Levenshtein

    levels = sorted(set(scores), reverse=True)
    tied_groups = [[i for i, score in enumerate(scores) if score == level] for level in levels]
    distances = [Levenshtein.normalized_distance(order, list(label)) for order in _list_orders(tied_groups)]
    return math.fsum(distances) / len(distances)


def _list_orders(tied_groups: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """List the orders that keep the groups in sequence: all of them, or MAX_ORDERS random ones (fixed seed)."""
    if math.prod(math.factorial(len(group)) for group in tied_groups) <= MAX_ORDERS:
        for order in product(*(permutations(group) for group in tied_groups)):
            yield [i for group in order for i in group]
        return
    rng = random.Random(0)
    for _ in range(MAX_ORDERS):
        yield [i for group in tied_groups for i in rng.sample(group, len(group))]


def number_names(names: Sequence[str]) -> tuple[list[str], Indexes]:
    """Return the distinct names, sorted, and the index of each given name among them."""
    distinct = sorted(set(names))
    indexes = {name: i for i, name in enumerate(distinct)}
    return distinct, np.array([indexes[name] for name in names], dtype=np.int64)


def _index_names(names: Sequence[str]) -> Indexes:
    return number_names(names)[1]


def _macro_mean(values: Floats, groups: Indexes, weights: Floats) -> float:
    return float(system_means(values, groups, weights).mean()) if len(values) else math.nan


def _has_variance(*columns: Numbers) -> bool:
    return all(len(column) > 1 and min(column) < max(column) for column in columns)
