"""Scoring of RewardBench 2: whether the right answers have the highest scores (arXiv 2506.01937).

The rules are those of the official scripts. Unlike them, an answer without a score is no score of -1: its prompt has no
value, and counts as wrong in the strict metric. The metric `macro_published` follows the scripts there too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from flex_judge.experiments.benchmarks.data import Record
from flex_judge.experiments.benchmarks.items import ItemOutcome
from flex_judge.experiments.benchmarks.metrics import BenchmarkMetric, Floats, Indexes, bootstrap_metric, number_names
from flex_judge.experiments.benchmarks.rewardbench2_rules import (
    NO_RATING,
    REFERENCE,
    TIE_PARTS,
    TIE_WEIGHTS,
    TIED,
    TIES,
    Scores,
    TiePrompt,
    compare_tied_answers,
    credit_best,
    credit_best_officially,
    score_tie_pair,
)
from flex_judge.experiments.benchmarks.scoring import PUBLISHED_SUFFIX, Metrics, MetricTables

SUBSET, PROMPT, UNIT = "subset", "prompt_id", "unit"
"""Groups of an item: subset, id of the prompt, and what is drawn as a whole by the bootstrap and by `--limit`."""
RIGHT, WRONG = 1, 0
"""Labels of an answer that is scored alone."""


@dataclass(frozen=True)
class PromptScores:
    """Scores of the answers to one prompt."""

    runs: tuple[Scores, ...]
    """Scores of each reading of all answers together; one entry if the answers are scored alone."""
    num_right: int


def find_tie_role(record: Record) -> tuple[str, str]:
    """Return the role and the number of a question in Ties, from an id such as `tied:12`.

    Raises:
        UsageError: The id has another form.
    """
    role, colon, number = str(record.require_value("id")).partition(":")
    if role not in (REFERENCE, TIED) or not colon or not number:
        raise record.make_error("id", f"{REFERENCE}:NUMBER or {TIED}:NUMBER in the subset {TIES}", record.get("id"))
    return role, number


@dataclass(frozen=True)
class BestOfScoring:
    """Scoring of the best of several answers; the headline is the mean over subsets, as on the leaderboard.

    Metrics: `macro`; `macro_expected`, the same by expected scores, which are rarely level; `strictly_best`, the same
    without Ties and with no credit for a shared highest score; `macro_published`, `macro` with missing scores as in the
    official scripts, if there are any.
    """

    headline: str = "macro"

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`."""
        prompts = _collect_prompts(outcomes)
        subsets = sorted({subset for subset, _, _ in prompts})
        plain = [subset for subset in subsets if subset != TIES]
        metrics = {"macro": self._compute_macro(prompts, subsets, seed)}
        if plain:
            strictly_best = _Units(prompts, _credit_strictly, plain)
            metrics["strictly_best"] = _bootstrap(strictly_best, strictly_best.average_subsets, seed)
        scored = [judgment for outcome in outcomes for judgment in outcome.judgments if judgment.scores]
        if scored and all(judgment.expected_scores for judgment in scored):
            expected = _collect_prompts(outcomes, by_expected=True)
            metrics["macro_expected"] = self._compute_macro(expected, subsets, seed)
        if any(score is None for scores in prompts.values() for run in scores.runs for score in run):
            official = _Units(prompts, _credit_officially, subsets, fill=NO_RATING)
            metrics["macro" + PUBLISHED_SUFFIX] = _bootstrap(official, official.average_subsets, seed)
        return metrics

    def compute_tables(self, outcomes: Sequence[ItemOutcome], seed: int) -> MetricTables:
        """See `Scoring.compute_tables`."""
        prompts = _collect_prompts(outcomes)
        subsets = sorted({subset for subset, _, _ in prompts})
        tables = {SUBSET: {subset: self._compute_macro(prompts, [subset], seed) for subset in subsets}}
        if TIES in subsets:
            units = _Units(prompts, _credit_readings, [TIES])
            tables["score of Ties"] = {
                part: _bootstrap(units, partial(units.average_tie_part, k), seed) for k, part in enumerate(TIE_PARTS)
            }
        return tables

    def _compute_macro(
        self, prompts: Mapping[tuple[str, str, str], PromptScores], subsets: Sequence[str], seed: int
    ) -> BenchmarkMetric:
        units = _Units(prompts, _credit_readings, subsets)
        strict = _Units(prompts, _credit_all_readings, subsets, is_strict=True)
        metric = _bootstrap(units, units.average_subsets, seed)
        return replace(metric.with_strict(_bootstrap(strict, strict.average_subsets, seed)), asked=strict.count)


Credit = Callable[[PromptScores], float | None]


class _Units:
    """Credits of all prompts as arrays, so that a bootstrap resample is a selection of indexes.

    Args:
        prompts: Scores by subset, unit and prompt.
        credit: Credit of a prompt outside Ties; None leaves it out.
        subsets: Subsets to use.
        is_strict: Whether a question in Ties without all scores counts as wrong instead of being left out.
        fill: Score in place of missing ones in Ties; None leaves such prompts out.
    """

    def __init__(
        self,
        prompts: Mapping[tuple[str, str, str], PromptScores],
        credit: Credit,
        subsets: Sequence[str],
        is_strict: bool = False,
        fill: float | None = None,
    ) -> None:
        values: list[float] = []
        names: list[str] = []
        pairs: dict[str, dict[str, TiePrompt | None]] = {}
        for (subset, unit, prompt_id), scores in prompts.items():
            if subset == TIES and subset in subsets:
                pairs.setdefault(unit, {})[prompt_id.partition(":")[0]] = _compare_ties(scores, fill)
            elif subset in subsets and (value := credit(scores)) is not None:
                values.append(value)
                names.append(subset)
        rows = [score_tie_pair(pair, is_strict) for pair in pairs.values() if is_strict or any(pair.values())]
        names += [TIES] * len(rows)
        self.count = len(names)
        self._credits: Floats = np.array(values + [math.nan] * len(rows), dtype=np.float64)
        distinct_names, self._subsets = number_names(names)
        self._ties = distinct_names.index(TIES) if rows else -1
        # Rows of the pairs, at the end of the units; the other units have none.
        self._parts = np.full((self.count, len(TIE_PARTS)), math.nan)
        if rows:
            self._parts[-len(rows) :] = rows

    def average_subsets(self, at: Indexes) -> float:
        """Average the subsets' values: the mean credit, or the score of Ties."""
        values = []
        for subset in np.unique(self._subsets[at]):
            chosen = at[self._subsets[at] == subset]
            values.append(self._score_ties(chosen) if subset == self._ties else float(self._credits[chosen].mean()))
        return float(np.mean(values)) if values else math.nan

    def compute_tie_parts(self, at: Indexes) -> Floats:
        """Compute the parts of the score of Ties; 0 for an accuracy without a question."""
        rows = self._parts[at]
        counts = (~np.isnan(rows)).sum(0)
        means = np.divide(np.nansum(rows, axis=0), counts, out=np.full(len(TIE_PARTS), math.nan), where=counts > 0)
        means[:2] = np.nan_to_num(means[:2], nan=0.0)
        return np.asarray(means, dtype=np.float64)

    def average_tie_part(self, part: int, at: Indexes) -> float:
        """Compute one part of the score of Ties."""
        return float(self.compute_tie_parts(at)[part])

    def _score_ties(self, at: Indexes) -> float:
        return float(self.compute_tie_parts(at) @ np.array(TIE_WEIGHTS))


def _compare_ties(scores: PromptScores, fill: float | None) -> TiePrompt | None:
    filled = [fill if score is None else score for score in scores.runs[0]]
    defined = [score for score in filled if score is not None]
    return compare_tied_answers(defined, scores.num_right) if len(defined) == len(filled) else None


def _credit_readings(scores: PromptScores) -> float | None:
    """Average the credit over the readings with all scores; None without any."""
    return _average(credit_best(run, scores.num_right) for run in scores.runs)


def _credit_all_readings(scores: PromptScores) -> float | None:
    """Average the credit over all readings, with 0 for one without all scores."""
    return _average(credit_best(run, scores.num_right) or 0.0 for run in scores.runs)


def _credit_officially(scores: PromptScores) -> float | None:
    return _average(credit_best_officially(run, scores.num_right) for run in scores.runs)


def _credit_strictly(scores: PromptScores) -> float | None:
    run_credits = [credit_best(run, scores.num_right) for run in scores.runs]
    return _average(None if credit is None else float(credit == 1.0) for credit in run_credits)


def _average(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None


def _bootstrap(units: _Units, statistic: Callable[[Indexes], float], seed: int) -> BenchmarkMetric:
    return bootstrap_metric(statistic, units.count, seed, asked=units.count)


def _collect_prompts(
    outcomes: Sequence[ItemOutcome], by_expected: bool = False
) -> dict[tuple[str, str, str], PromptScores]:
    """Collect the scores of each prompt by subset, unit and prompt, in the order of the data.

    Args:
        outcomes: Outcomes of all items.
        by_expected: Whether to take expected scores instead of written ones.
    """
    alone: dict[tuple[str, str, str], list[tuple[float | None, bool]]] = {}
    prompts: dict[tuple[str, str, str], PromptScores] = {}
    for outcome in outcomes:
        groups: Mapping[str, Any] = outcome.item.groups
        key = (groups[SUBSET], groups[UNIT], groups[PROMPT])
        label = outcome.item.label
        all_scores = [j.expected_scores if by_expected else j.scores for j in outcome.judgments]
        if isinstance(label, tuple):
            count = len(outcome.item.row.data["responses"])
            runs: list[Scores] = [[*scores] if scores else [None] * count for scores in all_scores]
            prompts[key] = PromptScores(tuple(runs), len(label))
        else:
            score = _average(scores[0] if scores else None for scores in all_scores)
            alone.setdefault(key, []).append((score, label == RIGHT))
    for key, answers in alone.items():
        ordered = sorted(answers, key=lambda answer: not answer[1])
        prompts[key] = PromptScores(([score for score, _ in ordered],), sum(is_right for _, is_right in ordered))
    return prompts
