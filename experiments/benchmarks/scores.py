"""What scores and rankings are worth: mean opinion scores, correlations by source, rankings of several responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flex_judge.experiments.benchmarks.items import Outcome
from flex_judge.experiments.benchmarks.metrics import (
    Floats,
    Indexes,
    Metric,
    Numbers,
    bootstrapped,
    mean_of_groups,
    mean_squared_error,
    numbered,
    pearson,
    ranking_distance,
    share,
    spearman,
    system_means,
)
from flex_judge.experiments.benchmarks.scoring import Metrics, Tables, by_group

_OPINIONS = {"lcc": pearson, "srcc": spearman, "mse": mean_squared_error}


@dataclass(frozen=True)
class Opinions:
    """Mean opinion scores: correlations and squared error, over items and over the means of systems."""

    headline: str = "lcc"
    system: str | None = "system"
    """The grouping that names what made an item; None where there is nothing of the kind."""
    ranges: tuple[tuple[float, float], tuple[float, float]] | None = None
    """Lowest and highest score of the judge's scale and of people's, where they differ: scores are mapped from one to
    the other, or their squared difference would mean nothing."""

    def figures(self, outcomes: Sequence[Outcome], seed: int) -> Metrics:
        known, scores, labels = _scored(outcomes)
        scores = self.mapped(scores)
        found = {name: _figure(metric, scores, labels, len(outcomes), seed) for name, metric in _OPINIONS.items()}
        if self.system and known and all(self.system in one.item.groups for one in known):
            systems = numbered([one.item.groups[self.system] for one in known])[1]
            means, people = system_means(scores, systems), system_means(labels, systems)
            asked = len({one.item.groups[self.system] for one in outcomes})
            for name, metric in _OPINIONS.items():
                found[f"system_{name}"] = _figure(metric, means, people, asked, seed)
        return found

    def mapped(self, score: Any) -> Any:
        """A score of the judge, or an array of them, on people's scale."""
        if self.ranges is None:
            return score
        (low, high), (least, most) = self.ranges
        return least + (score - low) * (most - least) / (high - low)

    def tables(self, outcomes: Sequence[Outcome], seed: int) -> Tables:
        def headline(part: Sequence[Outcome]) -> Metric:
            _, scores, labels = _scored(part)
            return _figure(_OPINIONS[self.headline], self.mapped(scores), labels, len(part), seed)

        return by_group(outcomes, headline, but=self.system)


@dataclass(frozen=True)
class Correlations:
    """Scores against people's, by source: Pearson's correlation of each run in each source, their mean over runs, and
    the mean of that over sources; and that of all items, each with the mean of its runs.

    Where a judge gives all items of a source the same score, or none a score, the correlation counts as 0, as in the
    published figures: left out, saying nothing would pay. A source in which people say the same of all items is left
    out."""

    headline: str = "pearson"
    group: str = "source"

    def figures(self, outcomes: Sequence[Outcome], seed: int) -> Metrics:
        _, scores, labels = _scored(outcomes)
        return {
            self.headline: self._mean_of_sources(outcomes, seed),
            "pearson_all": _figure(pearson, scores, labels, len(outcomes), seed),
        }

    def tables(self, outcomes: Sequence[Outcome], seed: int) -> Tables:
        return by_group(outcomes, lambda part: self._mean_of_sources(part, seed))

    def _mean_of_sources(self, outcomes: Sequence[Outcome], seed: int) -> Metric:
        labels = np.array([one.item.label for one in outcomes], dtype=np.float64)
        groups = numbered([one.item.groups[self.group] for one in outcomes])[1]
        runs = _by_run(outcomes)

        def of(run: Floats, people: Floats) -> float:
            had = ~np.isnan(run)
            if len(people) < 2 or people.min() == people.max():
                return math.nan
            found = pearson(run[had], people[had])
            return 0.0 if math.isnan(found) else found

        def mean(at: Indexes) -> float:
            sources = [at[groups[at] == k] for k in np.unique(groups[at])]
            return _mean(_mean(of(run[source], labels[source]) for run in runs) for source in sources)

        count = sum(one.score is not None for one in outcomes)
        if not count:
            return Metric(None, asked=len(outcomes))
        return replace(bootstrapped(mean, len(outcomes), seed, asked=len(outcomes)), count=count)


@dataclass(frozen=True)
class Rankings:
    """Rankings of several responses: the normalised Levenshtein distance to people's, the mean over sources. Lower is
    better; without a verdict it is 1, the farthest."""

    headline: str = "distance"
    group: str = "source"

    def figures(self, outcomes: Sequence[Outcome], seed: int) -> Metrics:
        distances, asked = self._distances(outcomes)
        groups = [one.item.groups[self.group] for one in outcomes]
        return {
            self.headline: mean_of_groups(distances, asked, groups, seed=seed),
            "distance_all": share(distances, asked, seed),
        }

    def tables(self, outcomes: Sequence[Outcome], seed: int) -> Tables:
        return by_group(outcomes, lambda part: share(*self._distances(part), seed))

    def distance(self, outcome: Outcome) -> tuple[float | None, float]:
        """The mean over runs: over those with a verdict, and with the others at 1."""
        label = outcome.item.label
        assert isinstance(label, tuple)
        known = [ranking_distance(one.scores, label) for one in outcome.judgments if one.scores]
        missing = len(outcome.judgments) - len(known)
        worst = (math.fsum(known) + missing) / len(outcome.judgments)
        return (math.fsum(known) / len(known) if known else None), worst

    def _distances(self, outcomes: Sequence[Outcome]) -> tuple[list[float | None], list[float]]:
        both = [self.distance(outcome) for outcome in outcomes]
        return [known for known, _ in both], [asked for _, asked in both]


def _scored(outcomes: Sequence[Outcome]) -> tuple[list[Outcome], Floats, Floats]:
    """The outcomes that have a score, their scores, and their labels."""
    known = [(one, score) for one in outcomes if (score := one.score) is not None]
    labels = [one.item.label for one, _ in known]
    assert all(isinstance(label, int | float) for label in labels)
    return [one for one, _ in known], np.array([score for _, score in known]), np.array(labels, dtype=np.float64)


def _figure(
    metric: Callable[[Numbers, Numbers], float], scores: Floats, labels: Floats, asked: int, seed: int
) -> Metric:
    """A metric of scores and labels, with the interval over them."""
    return bootstrapped(lambda at: metric(scores[at], labels[at]), len(scores), seed, asked=asked)


def _by_run(outcomes: Sequence[Outcome]) -> list[Floats]:
    """The scores of each run, nan where it has none."""
    count = max((len(one.judgments) for one in outcomes), default=0)
    runs = np.full((count, len(outcomes)), math.nan)
    for k, one in enumerate(outcomes):
        for run, judgment in enumerate(one.judgments):
            if judgment.scores is not None:
                runs[run, k] = judgment.scores[0]
    return list(runs)


def _mean(values: Iterable[float]) -> float:
    """The mean of those that are defined; nan where none is."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
