"""What scores and rankings are worth: mean opinion scores, correlations by source, rankings of several responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flex_judge.experiments.benchmarks.items import ItemOutcome
from flex_judge.experiments.benchmarks.metrics import (
    BenchmarkMetric,
    Floats,
    Indexes,
    Numbers,
    average_groups,
    bootstrap_metric,
    compute_share,
    mean_squared_error,
    number_names,
    pearson,
    ranking_distance,
    spearman,
    system_means,
)
from flex_judge.experiments.benchmarks.scoring import Metrics, MetricTables, compute_by_group

_OPINION_METRICS = {"lcc": pearson, "srcc": spearman, "mse": mean_squared_error}


@dataclass(frozen=True)
class OpinionScoring:
    """Mean opinion scores: correlations and squared error, over items and over the means of systems."""

    headline: str = "lcc"
    system: str | None = "system"
    """The grouping that names what made an item; None where there is nothing of the kind."""
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Lowest and highest score of the judge's scale and of people's, where they differ: scores are mapped from one to
    the other, or their squared difference would mean nothing."""

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        known, scores, labels = _collect_scores(outcomes)
        scores = self.rescale_score(scores)
        found = {
            name: _compute_metric(metric, scores, labels, len(outcomes), seed)
            for name, metric in _OPINION_METRICS.items()
        }
        if self.system and known and all(self.system in one.item.groups for one in known):
            systems = number_names([one.item.groups[self.system] for one in known])[1]
            means, people = system_means(scores, systems), system_means(labels, systems)
            asked = len({one.item.groups[self.system] for one in outcomes})
            for name, metric in _OPINION_METRICS.items():
                found[f"system_{name}"] = _compute_metric(metric, means, people, asked, seed)
        return found

    def rescale_score(self, score: Any) -> Any:
        """A score of the judge, or an array of them, on people's scale."""
        if self.ranges is None:
            return score
        (low, high), (least, most) = self.ranges
        return least + (score - low) * (most - least) / (high - low)

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        def headline_metric(part: Sequence[ItemOutcome]) -> BenchmarkMetric:
            _, scores, labels = _collect_scores(part)
            return _compute_metric(_OPINION_METRICS[self.headline], self.rescale_score(scores), labels, len(part), seed)

        return compute_by_group(outcomes, headline_metric, but=self.system)


@dataclass(frozen=True)
class CorrelationScoring:
    """Scores against people's, by source: Pearson's correlation of each run in each source, their mean over runs, and
    the mean of that over sources; and that of all items, each with the mean of its runs.

    Where a judge gives all items of a source the same score, or none a score, the correlation counts as 0, as in the
    published figures: left out, saying nothing would pay. A source in which people say the same of all items is left
    out."""

    headline: str = "pearson"
    group: str = "source"

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        _, scores, labels = _collect_scores(outcomes)
        return {
            self.headline: self._average_sources(outcomes, seed),
            "pearson_all": _compute_metric(pearson, scores, labels, len(outcomes), seed),
        }

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        return compute_by_group(outcomes, lambda part: self._average_sources(part, seed))

    def _average_sources(self, outcomes: Sequence[ItemOutcome], seed: int) -> BenchmarkMetric:
        labels = np.array([one.item.label for one in outcomes], dtype=np.float64)
        groups = number_names([one.item.groups[self.group] for one in outcomes])[1]
        runs = _scores_by_run(outcomes)

        def correlate_run(run: Floats, people: Floats) -> float:
            had = ~np.isnan(run)
            if len(people) < 2 or people.min() == people.max():
                return math.nan
            found = pearson(run[had], people[had])
            return 0.0 if math.isnan(found) else found

        def mean_over_sources(at: Indexes) -> float:
            sources = [at[groups[at] == k] for k in np.unique(groups[at])]
            return _nan_mean(
                _nan_mean(correlate_run(run[source], labels[source]) for run in runs) for source in sources
            )

        count = sum(one.score is not None for one in outcomes)
        if not count:
            return BenchmarkMetric(None, asked=len(outcomes))
        return replace(bootstrap_metric(mean_over_sources, len(outcomes), seed, asked=len(outcomes)), count=count)


@dataclass(frozen=True)
class RankingScoring:
    """Rankings of several responses: the normalised Levenshtein distance to people's, the mean over sources. Lower is
    better; without a verdict it is 1, the farthest."""

    headline: str = "distance"
    group: str = "source"

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        distances, asked = self._compute_distances(outcomes)
        groups = [one.item.groups[self.group] for one in outcomes]
        return {
            self.headline: average_groups(distances, asked, groups, seed=seed),
            "distance_all": compute_share(distances, asked, seed),
        }

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        return compute_by_group(outcomes, lambda part: compute_share(*self._compute_distances(part), seed))

    def compute_distance(self, outcome: ItemOutcome) -> tuple[float | None, float]:
        """The mean over runs: over those with a verdict, and with the others at 1."""
        label = outcome.item.label
        assert isinstance(label, tuple)
        known = [ranking_distance(one.scores, label) for one in outcome.judgments if one.scores]
        missing = len(outcome.judgments) - len(known)
        worst = (math.fsum(known) + missing) / len(outcome.judgments)
        return (math.fsum(known) / len(known) if known else None), worst

    def _compute_distances(self, outcomes: Sequence[ItemOutcome]) -> tuple[list[float | None], list[float]]:
        both = [self.compute_distance(outcome) for outcome in outcomes]
        return [known for known, _ in both], [asked for _, asked in both]


def _collect_scores(outcomes: Sequence[ItemOutcome]) -> tuple[list[ItemOutcome], Floats, Floats]:
    """The outcomes that have a score, their scores, and their labels."""
    known = [(one, score) for one in outcomes if (score := one.score) is not None]
    labels = [one.item.label for one, _ in known]
    assert all(isinstance(label, int | float) for label in labels)
    return [one for one, _ in known], np.array([score for _, score in known]), np.array(labels, dtype=np.float64)


def _compute_metric(
    metric: Callable[[Numbers, Numbers], float], scores: Floats, labels: Floats, asked: int, seed: int
) -> BenchmarkMetric:
    """A metric of scores and labels, with the interval over them."""
    return bootstrap_metric(lambda at: metric(scores[at], labels[at]), len(scores), seed, asked=asked)


def _scores_by_run(outcomes: Sequence[ItemOutcome]) -> list[Floats]:
    """The scores of each run, nan where it has none."""
    count = max((len(one.judgments) for one in outcomes), default=0)
    runs = np.full((count, len(outcomes)), math.nan)
    for k, one in enumerate(outcomes):
        for run, judgment in enumerate(one.judgments):
            if judgment.scores is not None:
                runs[run, k] = judgment.scores[0]
    return list(runs)


def _nan_mean(values: Iterable[float]) -> float:
    """The mean of those that are defined; nan where none is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
