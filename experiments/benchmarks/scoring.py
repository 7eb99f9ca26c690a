"""Scoring: the interface to a family of published metrics, and the scoring of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from flex_judge.experiments.benchmarks.items import TIE, ItemOutcome, extract_prediction, is_right
from flex_judge.experiments.benchmarks.makers import MakersRule
from flex_judge.experiments.benchmarks.metrics import (
    BenchmarkMetric,
    average_groups,
    compute_ratio,
    compute_share,
    precision_recall_f1,
)
from flex_judge.judges.judgments import Judgment, Verdict

Metrics = dict[str, BenchmarkMetric]
"""Name -> metric."""
MetricTables = dict[str, dict[str, BenchmarkMetric]]
"""Grouping (such as `source`) -> group -> metric."""
PUBLISHED_SUFFIX = "_published"
"""Suffix of the name of a metric by the makers' rules."""


PARTIAL = "overall_of_tasks_with_verdicts"
"""Name of the mean over the tasks with verdicts, if there are others; the overall mean is then undefined."""


class Scoring(Protocol):
    """Interface of the scorings: how the verdicts of a task become metrics."""

    @property
    def headline(self) -> str:
        """Name of the task's main metric."""
        ...

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """Compute the metrics over all items; `seed` seeds the bootstrap."""
        ...

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        """Compute the main metric of each group; `seed` seeds the bootstrap."""
        ...


@dataclass(frozen=True)
class PairScoring:
    """Scoring of pairs: which of two responses is better.

    Metrics: the share of right verdicts (named by `measure`) and the same `without_ties` in the labels; `decided`, the
    share of right verdicts among those that are not a tie; `macro`, the mean over groups; `majority` over all votes of
    an item; `length_controlled`, the share corrected for the length of the responses; `consistency` between the orders;
    and `precision`, `recall` and `f1`. Only those that apply are computed. A metric that the makers count differently
    is followed by theirs, such as `majority_published`.
    """

    headline: str = "agreement"
    measure: str = "agreement"
    """Name of the share of verdicts that agree with the label."""
    unit: str = "run"
    """Verdicts that are counted. `run`: the majority over the orders of each run. `vote`: each order by itself.
    `margin`: all votes of an item together, which must favour the label over the other response (ties count for
    neither). `voted`: the majority over all votes of an item."""
    tie: float = 0.0
    """Credit for predicting a tie if the label is not a tie."""
    by_options: bool = False
    """Whether the label is one of four options, which must match exactly."""
    macro: str | None = None
    """Grouping for the metric `macro`, the unweighted mean over its groups."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Group -> weight of its items within a group of `macro`; 1 by default."""
    classes: bool = False
    """Whether to report precision, recall and F1."""
    makers_count: MakersRule | None = None
    """Rule by which the makers count verdicts, if it differs from this project's."""
    makers_tie: float | None = None
    """Credit that the makers give for a tie, if it differs from `tie`."""
    makers_majority: MakersRule | None = None
    """Rule by which the makers find the majority of the runs, if it differs."""

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`."""
        metrics = self._compute_main_metrics(outcomes, seed)
        # Without predicted ties, `decided` would repeat the share above.
        without_tie_labels = self._leave_out_tie_labels(outcomes)
        if not self.by_options and any(self._has_tie_vote(outcome) for outcome in without_tie_labels):
            metrics["decided"] = self._compute_decisive_share(without_tie_labels)
        # With a single run, or by votes already, the majority would repeat the main metric.
        if self.unit != "voted" and any(len(outcome.judgments) > 1 for outcome in outcomes):
            metrics["majority"] = self._compute_majority(outcomes)
        metrics |= self._compute_length_controlled_share(outcomes)
        consistencies = [_compute_consistency(outcome) for outcome in outcomes]
        if any(value is not None for value in consistencies):
            consistency = compute_share(consistencies, [])
            metrics["consistency"] = replace(consistency, asked=len(outcomes))
        return _interleave_metrics(metrics, self._compute_published_metrics(outcomes, seed))

    def _compute_main_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """Compute the metrics that the makers' count of verdicts may change."""
        metrics = {self.measure: self._compute_share(outcomes)}
        without_tie_labels = self._leave_out_tie_labels(outcomes)
        subsets = {"": outcomes}
        if len(without_tie_labels) < len(outcomes) and not self.by_options:
            subsets["_without_ties"] = without_tie_labels
            metrics["without_ties"] = self._compute_share(without_tie_labels)
        if self.macro:
            for suffix, subset in subsets.items():
                metrics[f"macro{suffix}"] = self._compute_macro(subset, self.macro)
        return metrics | (self._compute_class_metrics(outcomes, seed) if self.classes else {})

    def _compute_published_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """Compute the metrics by the makers' rules, if these change the credit of any item or leave items out."""
        metrics: Metrics = {}
        makers = self if self.makers_tie is None else replace(self, tie=self.makers_tie)
        published = _apply_rule(self.makers_count, [outcome for outcome in outcomes if outcome.item.in_published])
        if published and makers._compute_credits(published) != self._compute_credits(outcomes):
            metrics |= makers._compute_main_metrics(published, seed)
        if self.makers_majority and any(len(outcome.judgments) > 1 for outcome in outcomes):
            metrics["majority"] = self._compute_majority(_apply_rule(self.makers_majority, outcomes))
        return metrics

    def _compute_majority(self, outcomes: Sequence[ItemOutcome]) -> BenchmarkMetric:
        """Compute the share of right verdicts by majority over all votes of an item."""
        predictions = [extract_prediction(outcome.combined_judgment, self.by_options) for outcome in outcomes]
        item_credits = [self._credit_prediction(p, outcome) for p, outcome in zip(predictions, outcomes, strict=True)]
        return compute_share(item_credits, [credit or 0.0 for credit in item_credits])

    def _compute_length_controlled_share(self, outcomes: Sequence[ItemOutcome]) -> Metrics:
        """Compute the mean of two shares: where the better response is longer, and where it is shorter.

        A judge that always prefers the longer response has 0.5, whatever the data; without length bias, the result is
        the plain share. Items with equal lengths or labelled a tie are left out.
        """
        groups = _group_by_length(outcomes)
        scored = _group_by_length([outcome for outcome in outcomes if self.compute_credit(outcome)[0] is not None])
        # A mean over one of the two groups would be controlled for nothing.
        if len(scored) < 2:
            return {}
        names = [name for name, group in groups.items() for _ in group]
        counted = [outcome for group in groups.values() for outcome in group]
        return {"length_controlled": average_groups(*self._compute_credits(counted), names)}

    def _leave_out_tie_labels(self, outcomes: Sequence[ItemOutcome]) -> list[ItemOutcome]:
        return [outcome for outcome in outcomes if outcome.item.label != TIE]

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:  # noqa: ARG002
        """See `Scoring.compute_tables`. Shares need no seed."""
        tables = compute_by_group(outcomes, self._compute_share)
        if self.macro in tables and self.weights:
            # The table of the macro grouping shows what `macro` averages, with the same weights.
            grouping = str(self.macro)
            weighted = compute_by_group(outcomes, lambda group: self._compute_macro(group, grouping))
            tables[grouping] = weighted[grouping]
        if len(lengths := _group_by_length(outcomes)) > 1:
            tables["better response"] = {name: self._compute_share(group) for name, group in lengths.items()}
        return tables

    def compute_credit(self, outcome: ItemOutcome) -> tuple[float | None, float]:
        """Compute an item's credit over its verdicts (None without any), and with missing ones counted as wrong."""
        predictions = self._list_predictions(outcome)
        defined = [prediction for prediction in predictions if prediction is not None]
        label = outcome.item.label
        if self.unit == "margin":
            # Votes for the label minus votes for the other response; ties count for neither.
            lead = sum((p == label) - (p != label and p != TIE) for p in defined)
            return (float(lead > 0) if defined else None), float(lead > 0)
        total = math.fsum(self._credit_prediction(prediction, outcome) or 0.0 for prediction in defined)
        return (total / len(defined) if defined else None), total / max(1, len(predictions))

    def _compute_share(self, outcomes: Sequence[ItemOutcome]) -> BenchmarkMetric:
        return compute_share(*self._compute_credits(outcomes))

    def _has_tie_vote(self, outcome: ItemOutcome) -> bool:
        return any(extract_prediction(vote) == TIE for vote in outcome.votes)

    def _compute_decisive_share(self, outcomes: Sequence[ItemOutcome]) -> BenchmarkMetric:
        """Compute the share of right verdicts among all verdicts that are not a tie."""
        right, decisive = [], []
        for outcome in outcomes:
            predictions = [p for p in self._list_predictions(outcome) if p is not None and p != TIE]
            right.append(sum(prediction == outcome.item.label for prediction in predictions))
            decisive.append(len(predictions))
        return compute_ratio(right, decisive)

    def _list_predictions(self, outcome: ItemOutcome) -> list[int | str | None]:
        """List the prediction of each verdict of an item, None if it has no score."""
        verdicts: Sequence[Judgment | Verdict] = outcome.votes
        if self.unit == "run":
            verdicts = outcome.judgments
        elif self.unit == "voted":
            verdicts = [outcome.combined_judgment]
        return [extract_prediction(verdict, self.by_options) for verdict in verdicts]

    def _compute_macro(self, outcomes: Sequence[ItemOutcome], grouping: str) -> BenchmarkMetric:
        item_credits, strict_credits = self._compute_credits(outcomes)
        groups = [outcome.item.groups[grouping] for outcome in outcomes]
        weights = [self._get_weight(outcome) for outcome in outcomes]
        return average_groups(item_credits, strict_credits, groups, weights)

    def _get_weight(self, outcome: ItemOutcome) -> float:
        return next((self.weights[group] for group in outcome.item.groups.values() if group in self.weights), 1.0)

    def _compute_credits(self, outcomes: Sequence[ItemOutcome]) -> tuple[list[float | None], list[float]]:
        pairs = [self.compute_credit(outcome) for outcome in outcomes]
        return [credit for credit, _ in pairs], [strict_credit for _, strict_credit in pairs]

    def _credit_prediction(self, prediction: int | str | None, outcome: ItemOutcome) -> float | None:
        if prediction is None:
            return None
        if is_right(prediction, outcome.item.label):
            return 1.0
        return self.tie if prediction == TIE else 0.0

    def _compute_class_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """Compute precision, recall and F1 of the verdicts that `compute_credit` counts."""
        labels = [str(outcome.item.label) for outcome in outcomes]
        strict_predictions = [[str(p) for p in self._list_predictions(outcome)] for outcome in outcomes]
        predictions = [[str(p) for p in self._list_predictions(outcome) if p is not None] for outcome in outcomes]
        scored = [i for i, item_predictions in enumerate(predictions) if item_predictions]
        metrics = precision_recall_f1([predictions[i] for i in scored], [labels[i] for i in scored], seed)
        is_complete = predictions == strict_predictions
        strict = metrics if is_complete else precision_recall_f1(strict_predictions, labels, seed)
        names = ("precision", "recall", "f1")
        return {
            name: metric.with_strict(strict_metric)
            for name, metric, strict_metric in zip(names, metrics, strict, strict=True)
        }


def compute_by_group(
    outcomes: Sequence[ItemOutcome],
    compute: Callable[[Sequence[ItemOutcome]], BenchmarkMetric],
    skip: str | None = None,
) -> MetricTables:
    """Compute a metric for each group of every grouping that has more than one group.

    Args:
        outcomes: All outcomes of a task.
        compute: Computes the metric of one group.
        skip: Grouping to leave out.
    """
    groupings = dict.fromkeys(name for outcome in outcomes for name in outcome.item.groups if name != skip)
    tables = {}
    for grouping in groupings:
        groups: dict[str, list[ItemOutcome]] = {}
        for outcome in outcomes:
            if grouping in outcome.item.groups:
                groups.setdefault(outcome.item.groups[grouping], []).append(outcome)
        if len(groups) > 1:
            tables[grouping] = {name: compute(groups[name]) for name in sorted(groups)}
    return tables


def _group_by_length(outcomes: Sequence[ItemOutcome]) -> dict[str, list[ItemOutcome]]:
    """Group outcomes by whether the better response is the longer one; without ties and equal lengths."""
    groups = {
        "longer": [outcome for outcome in outcomes if outcome.is_better_longer is True],
        "shorter": [outcome for outcome in outcomes if outcome.is_better_longer is False],
    }
    return {name: group for name, group in groups.items() if group}


def _apply_rule(rule: MakersRule | None, outcomes: Sequence[ItemOutcome]) -> list[ItemOutcome]:
    counted = [rule(outcome) if rule else outcome for outcome in outcomes]
    return [outcome for outcome in counted if outcome is not None]


def _interleave_metrics(metrics: Metrics, published: Metrics) -> Metrics:
    """Put each metric by the makers' rules behind the same metric by this project's."""
    interleaved: Metrics = {}
    for name in dict.fromkeys([*metrics, *published]):
        if name in metrics:
            interleaved[name] = metrics[name]
        if name in published:
            interleaved[name + PUBLISHED_SUFFIX] = published[name]
    return interleaved


def _compute_consistency(outcome: ItemOutcome) -> float | None:
    """Compute the fraction of rounds whose orders all prefer the same response; None without several orders."""
    values = [1.0 - judgment.disagreement for judgment in outcome.judgments if judgment.disagreement is not None]
    return math.fsum(values) / len(values) if values else None
