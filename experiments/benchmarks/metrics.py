"""The metrics of the benchmarks, each with a bootstrap interval over items. Pure: figures in, figures out.

An item without a verdict is no number. A share is given twice: over the items that have a verdict, and with all others
counted as wrong. A correlation has only the first, and says of how many items it is.
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

from flex_judge.alignment.best_of_n.metrics import CONFIDENCE

RESAMPLES = 1000
MAX_ORDERS = 5040
"""Orders, at most, that responses with the same score are put into: every one of seven that are all level."""
Floats = NDArray[np.float64]
Indexes = NDArray[np.int64]
Numbers = Sequence[float] | Floats
Statistic = Callable[[Indexes], float]
"""Takes the indexes of the items of a resample."""


@dataclass(frozen=True)
class BenchmarkMetric:
    """One metric of a judge on a benchmark."""

    value: float | None
    """Over the items that have a verdict; None where it is not defined: no items, or scores that are all the same."""
    low: float | None = None
    """Lower end of the 95 % bootstrap interval over items; None where there are too few of them."""
    high: float | None = None
    count: int = 0
    """Items with a verdict."""
    strict: float | None = None
    """The same with items that have no verdict counted as wrong; None for what is no share."""
    strict_low: float | None = None
    """Lower end of the interval of `strict`."""
    strict_high: float | None = None
    asked: int = 0
    """Items in all."""

    def with_strict(self, every: BenchmarkMetric) -> BenchmarkMetric:
        """This figure, and that of all items beside it."""
        return replace(
            self, strict=every.value, strict_low=every.low, strict_high=every.high, asked=max(self.asked, every.count)
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bootstrap_metric(statistic: Statistic, count: int, seed: int = 0, **rest: Any) -> BenchmarkMetric:
    """A statistic of so many items, with its percentile bootstrap interval (scipy).

    Resamples on which it is not defined (one score, in all of them) are left out of the interval.

    Args:
        rest: the other fields of the figure.
    """
    from scipy import stats

    if not count:
        return BenchmarkMetric(None, **rest)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of undefined resamples, which are looked at below
        value = float(statistic(np.arange(count)))
        if math.isnan(value):
            return BenchmarkMetric(None, count=count, **rest)
        if count < 2:
            return BenchmarkMetric(value, count=count, **rest)
        drawn = stats.bootstrap(
            (np.arange(count),),
            statistic,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).bootstrap_distribution
        low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return BenchmarkMetric(value, float(low), float(high), count, **rest)


def compute_share(worth: Sequence[float | None], asked: Sequence[float], seed: int = 0) -> BenchmarkMetric:
    """The mean of what items are credited with.

    Args:
        worth: of each item, over its verdicts; None where it has none.
        asked: of each item, with those that are missing counted as wrong.
    """
    known = np.array([credit for credit in worth if credit is not None], dtype=np.float64)
    every = np.array(asked, dtype=np.float64)
    scored = bootstrap_metric(lambda at: float(known[at].mean()), len(known), seed)
    if len(known) == len(every) and (known == every).all():
        return scored.with_strict(scored)
    return scored.with_strict(bootstrap_metric(lambda at: float(every[at].mean()), len(every), seed))


def compute_ratio(parts: Sequence[float], wholes: Sequence[float], seed: int = 0) -> BenchmarkMetric:
    """The sum of some parts over the sum of their wholes: the share of verdicts, say, of those of all items.

    Args:
        parts: of each item.
        wholes: of each item; those at 0 count nothing.
    """
    over, under = np.array(parts, dtype=np.float64), np.array(wholes, dtype=np.float64)

    def ratio_of_sums(at: Indexes) -> float:
        return float(over[at].sum() / under[at].sum()) if under[at].any() else math.nan

    figure = bootstrap_metric(ratio_of_sums, len(under), seed, asked=len(under))
    return replace(figure, count=int((under > 0).sum()))


def average_groups(
    worth: Sequence[float | None],
    asked: Sequence[float],
    groups: Sequence[str],
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> BenchmarkMetric:
    """The unweighted mean of the groups' shares; see `share` for the others.

    Args:
        weights: of each item within its group; None for alike.
    """
    every = np.ones(len(asked)) if weights is None else np.array(weights, dtype=np.float64)
    known = [i for i, credit in enumerate(worth) if credit is not None]
    values = np.array([worth[i] for i in known], dtype=np.float64)
    numbers, own = _index_names([groups[i] for i in known]), every[known]
    scored = bootstrap_metric(lambda at: _macro_mean(values[at], numbers[at], own[at]), len(known), seed)
    all_values, all_numbers = np.array(asked, dtype=np.float64), _index_names(groups)
    if len(known) == len(all_values) and (values == all_values).all():
        return scored.with_strict(scored)
    return scored.with_strict(
        bootstrap_metric(lambda at: _macro_mean(all_values[at], all_numbers[at], every[at]), len(all_values), seed)
    )


def pearson(scores: Numbers, labels: Numbers) -> float:
    """Pearson's correlation (scipy); nan where either is constant or there are fewer than two."""
    from scipy import stats

    return float(stats.pearsonr(scores, labels).statistic) if _has_variance(scores, labels) else math.nan


def spearman(scores: Numbers, labels: Numbers) -> float:
    """Spearman's rank correlation (scipy); nan where either is constant or there are fewer than two."""
    from scipy import stats

    return float(stats.spearmanr(scores, labels).statistic) if _has_variance(scores, labels) else math.nan


def mean_squared_error(scores: Numbers, labels: Numbers) -> float:
    """The mean of the squared differences (scikit-learn)."""
    from sklearn.metrics import mean_squared_error as mse

    return float(mse(labels, scores)) if len(scores) else math.nan


def system_means(values: Floats, systems: Indexes, weights: Floats | None = None) -> Floats:
    """The mean of the items of each system, in the order of their numbers; systems without items are left out."""
    sums = np.bincount(systems, weights=values if weights is None else values * weights)
    totals = np.bincount(systems, weights=weights)
    return np.asarray(sums[totals > 0] / totals[totals > 0])


def precision_recall_f1(
    predicted: Sequence[Sequence[str]], labels: Sequence[str], seed: int = 0
) -> tuple[BenchmarkMetric, ...]:
    """Macro averages over the labels that occur (scikit-learn), each with its interval over items. What was never
    predicted has precision 0.

    Args:
        predicted: of each item, what each of its verdicts says.
        labels: of each item.
    """
    from sklearn.metrics import precision_recall_fscore_support

    known = sorted(set(labels))
    rows = [(i, f"{said}\n{label}") for i, label in enumerate(labels) for said in predicted[i]]
    pairs, place = number_names([pair for _, pair in rows])
    said, right = [pair.split("\n")[0] for pair in pairs], [pair.split("\n")[1] for pair in pairs]
    table = np.zeros((len(labels), len(pairs)), dtype=np.int64)
    np.add.at(table, (np.array([i for i, _ in rows], dtype=np.int64), place), 1)

    @lru_cache(maxsize=2 * RESAMPLES)  # the three are of the same resamples
    def macro_averages(counts: tuple[int, ...]) -> tuple[float, float, float]:
        found = precision_recall_fscore_support(
            right, said, labels=known, average="macro", zero_division=0, sample_weight=counts
        )
        return float(found[0]), float(found[1]), float(found[2])

    def pick_average(k: int) -> Statistic:
        return lambda at: macro_averages(tuple(table[at].sum(0).tolist()))[k]

    return tuple(bootstrap_metric(pick_average(k), len(labels), seed) for k in range(3))


def ranking_distance(scores: Sequence[float], label: Sequence[int]) -> float:
    """The normalised Levenshtein distance between the ranking by scores and the human one; 0 is the same.

    Responses with the same score have no order, so the distance is the mean over all orders that they may stand in.

    Args:
        scores: of each response.
        label: the responses' indexes, best first.
    """
    from rapidfuzz.distance import Levenshtein

    levels = sorted(set(scores), reverse=True)
    tied = [[i for i, score in enumerate(scores) if score == level] for level in levels]
    distances = [Levenshtein.normalized_distance(order, list(label)) for order in _list_orders(tied)]
    return math.fsum(distances) / len(distances)


def _list_orders(tied: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Every order that keeps the groups' order; where there are too many, as many drawn at random, always the same."""
    if math.prod(math.factorial(len(group)) for group in tied) <= MAX_ORDERS:
        for order in product(*(permutations(group) for group in tied)):
            yield [i for group in order for i in group]
        return
    rng = random.Random(0)
    for _ in range(MAX_ORDERS):
        yield [i for group in tied for i in rng.sample(group, len(group))]


def number_names(names: Sequence[str]) -> tuple[list[str], Indexes]:
    """Different names in their order, and of each name its number."""
    known = sorted(set(names))
    places = {name: i for i, name in enumerate(known)}
    return known, np.array([places[name] for name in names], dtype=np.int64)


def _index_names(names: Sequence[str]) -> Indexes:
    return number_names(names)[1]


def _macro_mean(values: Floats, groups: Indexes, weights: Floats) -> float:
    return float(system_means(values, groups, weights).mean()) if len(values) else math.nan


def _has_variance(*columns: Numbers) -> bool:
    return all(len(column) > 1 and min(column) < max(column) for column in columns)
