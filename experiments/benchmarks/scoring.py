"""What verdicts are worth: the seam to a family of published metrics, and the family of pairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from flex_judge.experiments.benchmarks.items import TIE, ItemOutcome, extract_prediction
from flex_judge.experiments.benchmarks.metrics import (
    BenchmarkMetric,
    average_groups,
    bootstrap_metric,
    compute_ratio,
    compute_share,
    precision_recall_f1,
)
from flex_judge.judges.judgments import Judgment, Verdict

Metrics = dict[str, BenchmarkMetric]
MetricTables = dict[str, dict[str, BenchmarkMetric]]
"""Of a grouping (`source`) each group's figure."""


class Scoring(Protocol):
    """How the verdicts of a task are counted."""

    @property
    def headline(self) -> str:
        """Name of the figure that stands for the task."""
        ...

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics: ...

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables: ...


@dataclass(frozen=True)
class PairScoring:
    """Which of two responses is better."""

    headline: str = "agreement"
    measure: str = "agreement"
    """What the share of verdicts that say what people said is called."""
    unit: str = "run"
    """What counts as a verdict: `run`: all orders of a run together, of which the majority decides; `vote`: each order
    by itself; `margin`: all votes of an item together, which must be more for the label than for the other response
    (a tie counts for neither); `voted`: what all votes of an item come to, by majority."""
    tie: float = 0.0
    """What a tie is worth where the label is none."""
    by_options: bool = False
    """Whether the label is one of the four options, and nothing less will do."""
    macro: str | None = None
    """The grouping whose groups count alike in `macro`."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What an item of a group counts for within a group of `macro`, where it is not 1."""
    classes: bool = False
    """Whether precision, recall and F1 are told."""

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        found = {self.measure: self._compute_share(outcomes, seed)}
        decided = [one for one in outcomes if one.item.label != TIE]
        parts = {"": outcomes}
        if len(decided) < len(outcomes) and not self.by_options:
            parts["_without_ties"] = decided
            found["without_ties"] = self._compute_share(decided, seed)
        if not self.by_options and any(self._has_tie_vote(one) for one in decided):
            found["decided"] = self._compute_decisive_share(decided, seed)
        if self.macro:
            found |= {f"macro{name}": self._compute_macro(part, self.macro, seed) for name, part in parts.items()}
        if self.unit != "voted" and any(len(one.judgments) > 1 for one in outcomes):
            majority = [
                self._credit_prediction(extract_prediction(one.combined_judgment, self.by_options), one)
                for one in outcomes
            ]
            found["majority"] = compute_share(majority, [credit or 0.0 for credit in majority], seed)
        if self.classes:
            found |= self._compute_class_metrics(outcomes, seed)
        steady = [_compute_consistency(one) for one in outcomes]
        if any(value is not None for value in steady):
            known = [value for value in steady if value is not None]
            found["consistency"] = bootstrap_metric(
                lambda at: float(np.mean([known[i] for i in at])), len(known), seed, asked=len(outcomes)
            )
        return found

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        tables = compute_by_group(outcomes, lambda part: self._compute_share(part, seed))
        if self.macro in tables and self.weights:
            tables[self.macro] = compute_by_group(
                outcomes, lambda part: self._compute_macro(part, str(self.macro), seed)
            )[self.macro]
        return tables

    def compute_credit(self, outcome: ItemOutcome) -> tuple[float | None, float]:
        """What an item is worth: over its verdicts, and with missing ones counted as wrong."""
        found = self._list_predictions(outcome)
        known = [said for said in found if said is not None]
        if self.unit == "margin":
            lead = sum((said == outcome.item.label) - (said != outcome.item.label and said != TIE) for said in known)
            return (float(lead > 0) if known else None), float(lead > 0)
        worth = math.fsum(self._credit_prediction(said, outcome) or 0.0 for said in known)
        return (worth / len(known) if known else None), worth / max(1, len(found))

    def _compute_share(self, outcomes: Sequence[ItemOutcome], seed: int) -> BenchmarkMetric:
        return compute_share(*self._compute_credits(outcomes), seed)

    def _has_tie_vote(self, outcome: ItemOutcome) -> bool:
        return any(extract_prediction(one) == TIE for one in outcome.votes)

    def _compute_decisive_share(self, outcomes: Sequence[ItemOutcome], seed: int) -> BenchmarkMetric:
        """The share of verdicts that say what people said, of those of all items that are no tie."""
        said = [[it for it in self._list_predictions(one) if it is not None and it != TIE] for one in outcomes]
        right = [sum(it == one.item.label for it in its) for one, its in zip(outcomes, said, strict=True)]
        return compute_ratio(right, [len(its) for its in said], seed)

    def _list_predictions(self, outcome: ItemOutcome) -> list[int | str | None]:
        """What each verdict of an item predicts, None where there is none."""
        votes: Sequence[Judgment | Verdict] = outcome.votes
        if self.unit in ("run", "voted"):
            votes = outcome.judgments if self.unit == "run" else [outcome.combined_judgment]
        return [extract_prediction(vote, self.by_options) for vote in votes]

    def _compute_macro(self, outcomes: Sequence[ItemOutcome], grouping: str, seed: int) -> BenchmarkMetric:
        worth, asked = self._compute_credits(outcomes)
        groups = [one.item.groups[grouping] for one in outcomes]
        return average_groups(worth, asked, groups, [self._get_weight(one) for one in outcomes], seed)

    def _get_weight(self, outcome: ItemOutcome) -> float:
        return next((self.weights[group] for group in outcome.item.groups.values() if group in self.weights), 1.0)

    def _compute_credits(self, outcomes: Sequence[ItemOutcome]) -> tuple[list[float | None], list[float]]:
        both = [self.compute_credit(outcome) for outcome in outcomes]
        return [known for known, _ in both], [asked for _, asked in both]

    def _credit_prediction(self, said: int | str | None, outcome: ItemOutcome) -> float | None:
        if said is None:
            return None
        if said == outcome.item.label:
            return 1.0
        return self.tie if said == TIE else 0.0

    def _compute_class_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """Of the verdicts that `credit` counts, over the items that have one, and over all."""
        labels = [str(one.item.label) for one in outcomes]
        every = [[str(it) for it in self._list_predictions(one)] for one in outcomes]
        known = [[str(it) for it in self._list_predictions(one) if it is not None] for one in outcomes]
        some = [i for i, its in enumerate(known) if its]
        scored = precision_recall_f1([known[i] for i in some], [labels[i] for i in some], seed)
        strict = scored if known == every else precision_recall_f1(every, labels, seed)
        names = ("precision", "recall", "f1")
        return {name: one.with_strict(all_) for name, one, all_ in zip(names, scored, strict, strict=True)}


def compute_by_group(
    outcomes: Sequence[ItemOutcome], figure: Callable[[Sequence[ItemOutcome]], BenchmarkMetric], but: str | None = None
) -> MetricTables:
    """A figure of each group, for every grouping of the items (but one) that has more than one."""
    names = dict.fromkeys(name for one in outcomes for name in one.item.groups if name != but)
    tables = {}
    for name in names:
        parts: dict[str, list[ItemOutcome]] = {}
        for one in outcomes:
            if name in one.item.groups:
                parts.setdefault(one.item.groups[name], []).append(one)
        if len(parts) > 1:
            tables[name] = {group: figure(parts[group]) for group in sorted(parts)}
    return tables


def _compute_consistency(outcome: ItemOutcome) -> float | None:
    """The share of the rounds read in several orders in which all prefer the same; None where there is none."""
    known = [1.0 - one.disagreement for one in outcome.judgments if one.disagreement is not None]
    return math.fsum(known) / len(known) if known else None
