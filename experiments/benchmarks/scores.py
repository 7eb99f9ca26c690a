"""Scoring of scores and rankings: mean opinion scores, correlations by source, rankings of several responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
    mean_squared_error,
    number_names,
    pearson,
    ranking_distance,
    spearman,
    system_means,
)
from flex_judge.experiments.benchmarks.scoring import Metrics, MetricTables, compute_by_group

ScoreFunction = Callable[[Numbers, Numbers], float]
"""Function of scores and labels."""
_OPINION_METRICS: Mapping[str, ScoreFunction] = {"lcc": pearson, "srcc": spearman, "mse": mean_squared_error}


@dataclass(frozen=True)
class OpinionScoring:
    """Scoring of single responses against human scores, by functions over items and over the means of systems."""

    headline: str = "lcc"
    system: str | None = "system"
    """Grouping by the system that made an item; None for items without one."""
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Lowest and highest score of the judge's scale and of the labels' scale, if they differ. Scores are mapped to the
    labels' scale, because a squared difference between scales is meaningless."""
    functions: Mapping[str, ScoreFunction] = field(default_factory=lambda: _OPINION_METRICS)
    """Metrics by name: those of mean opinion scores by default."""

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`."""
        scored, scores, labels = _collect_scores(outcomes)
        scores = self.rescale_score(scores)
        metrics = {
            name: _compute_metric(function, scores, labels, len(outcomes), seed)
            for name, function in self.functions.items()
        }
        if self.system and scored and all(self.system in outcome.item.groups for outcome in scored):
            systems = number_names([outcome.item.groups[self.system] for outcome in scored])[1]
            mean_scores, mean_labels = system_means(scores, systems), system_means(labels, systems)
            system_count = len({outcome.item.groups[self.system] for outcome in outcomes})
            for name, function in self.functions.items():
                metrics[f"system_{name}"] = _compute_metric(function, mean_scores, mean_labels, system_count, seed)
        return metrics

    def rescale_score(self, score: Any) -> Any:
        """Map a score of the judge, or an array of scores, to the labels' scale."""
        if self.ranges is None:
            return score
        (low, high), (label_low, label_high) = self.ranges
        return label_low + (score - low) * (label_high - label_low) / (high - low)

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        """See `Scoring.compute_tables`."""

        def headline_metric(group: Sequence[ItemOutcome]) -> BenchmarkMetric:
            _, scores, labels = _collect_scores(group)
            function = self.functions[self.headline]
            return _compute_metric(function, self.rescale_score(scores), labels, len(group), seed)

        # A table with one row per system would be too long.
        return compute_by_group(outcomes, headline_metric, skip=self.system)


@dataclass(frozen=True)
class CorrelationScoring:
    """Scoring by Pearson's correlation with the labels: by source, and over all items.

    The correlation of a source is the mean over runs; the headline is the mean over sources. If a judge gives all items
    of a source the same score, or no score, the correlation counts as 0, as in the published results: leaving it out
    would reward silence. A source whose labels are all equal is left out.
    """

    headline: str = "pearson"
    group: str = "source"

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`."""
        _, scores, labels = _collect_scores(outcomes)
        return {
            self.headline: self._average_sources(outcomes, seed),
            "pearson_all": _compute_metric(pearson, scores, labels, len(outcomes), seed),
        }

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        """See `Scoring.compute_tables`."""
        return compute_by_group(outcomes, lambda group: self._average_sources(group, seed))

    def _average_sources(self, outcomes: Sequence[ItemOutcome], seed: int) -> BenchmarkMetric:
        labels = np.array([outcome.item.label for outcome in outcomes], dtype=np.float64)
        groups = number_names([outcome.item.groups[self.group] for outcome in outcomes])[1]
        runs = _scores_by_run(outcomes)

        def correlate_run(run_scores: Floats, run_labels: Floats) -> float:
            if len(run_labels) < 2 or run_labels.min() == run_labels.max():
                return math.nan
            is_scored = ~np.isnan(run_scores)
            correlation = pearson(run_scores[is_scored], run_labels[is_scored])
            return 0.0 if math.isnan(correlation) else correlation

        def mean_over_sources(at: Indexes) -> float:
            sources = [at[groups[at] == k] for k in np.unique(groups[at])]
            return _nan_mean(
                _nan_mean(correlate_run(run[source], labels[source]) for run in runs) for source in sources
            )

        count = sum(outcome.score is not None for outcome in outcomes)
        if not count:
            return BenchmarkMetric(None, asked=len(outcomes))
        metric = bootstrap_metric(mean_over_sources, len(outcomes), seed, asked=len(outcomes))
        return replace(metric, count=count)


@dataclass(frozen=True)
class RankingScoring:
    """Scoring of rankings by normalised Levenshtein distance to the label, averaged over sources.

    Lower is better. A missing verdict has distance 1, the maximum.
    """

    headline: str = "distance"
    group: str = "source"

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`."""
        sources = [outcome.item.groups[self.group] for outcome in outcomes]
        return {
            self.headline: self._average_distances(outcomes, sources, seed),
            "distance_all": self._average_distances(outcomes, [""] * len(outcomes), seed),
        }

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        """See `Scoring.compute_tables`."""
        return compute_by_group(outcomes, lambda group: self._average_distances(group, [""] * len(group), seed))

    def compute_distance(self, outcome: ItemOutcome) -> tuple[float | None, float]:
        """Compute an item's mean distance over the runs with a verdict, and over all runs with the others at 1."""
        label = outcome.item.label
        assert isinstance(label, tuple)
        distances = [ranking_distance(judgment.scores, label) for judgment in outcome.judgments if judgment.scores]
        missing = len(outcome.judgments) - len(distances)
        strict = (math.fsum(distances) + missing) / len(outcome.judgments)
        return (math.fsum(distances) / len(distances) if distances else None), strict

    def _average_distances(self, outcomes: Sequence[ItemOutcome], groups: Sequence[str], seed: int) -> BenchmarkMetric:
        pairs = [self.compute_distance(outcome) for outcome in outcomes]
        distances, strict_distances = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return average_groups(distances, strict_distances, groups, bootstrap_seed=seed)


def _collect_scores(outcomes: Sequence[ItemOutcome]) -> tuple[list[ItemOutcome], Floats, Floats]:
    """Return the outcomes with a score, their scores, and their labels."""
    pairs = [(outcome, score) for outcome in outcomes if (score := outcome.score) is not None]
    labels = [outcome.item.label for outcome, _ in pairs]
    assert all(isinstance(label, int | float) for label in labels)
    scores = np.array([score for _, score in pairs])
    return [outcome for outcome, _ in pairs], scores, np.array(labels, dtype=np.float64)


def _compute_metric(
    function: ScoreFunction, scores: Floats, labels: Floats, item_count: int, seed: int
) -> BenchmarkMetric:
    """Compute a function of scores and labels with its bootstrap interval."""
    return bootstrap_metric(lambda at: function(scores[at], labels[at]), len(scores), seed, asked=item_count)


def _scores_by_run(outcomes: Sequence[ItemOutcome]) -> list[Floats]:
    """Return the scores of each run, nan for unscored items."""
    run_count = max((len(outcome.judgments) for outcome in outcomes), default=0)
    scores = np.full((run_count, len(outcomes)), math.nan)
    for k, outcome in enumerate(outcomes):
        for run, judgment in enumerate(outcome.judgments):
            if judgment.scores is not None:
                scores[run, k] = judgment.scores[0]
    return list(scores)


def _nan_mean(values: Iterable[float]) -> float:
    """Average the values that are not nan; nan without any."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
