"""One's own pairs or scores with human labels as a benchmark."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flex_judge.experiments.benchmarks.benchmark import Benchmark, BenchmarkSpec
from flex_judge.experiments.benchmarks.cells import read_number
from flex_judge.experiments.benchmarks.data import BenchmarkData, Record
from flex_judge.experiments.benchmarks.ids import assign_ids
from flex_judge.experiments.benchmarks.items import TIE, Item, ItemOutcome, Label, extract_prediction
from flex_judge.experiments.benchmarks.metrics import Numbers, bootstrap_metric, pearson, spearman
from flex_judge.experiments.benchmarks.scores import OpinionScoring
from flex_judge.experiments.benchmarks.scoring import Metrics, PairScoring
from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import read_cells
from flex_judge.judges.io.files import ComparisonFileRow
from flex_judge.judges.media.paths import list_media_folders
from flex_judge.judges.rubrics import load_rubric

LABELLED = "labelled"
NAMES: Mapping[str, Label] = {"A": 0, "B": 1, "TIE": TIE, "C": TIE, "DRAW": TIE, "EQUAL": TIE, "BOTH": TIE}
"""Texts that label a pair, in upper case."""
GROUP_COLUMNS = ("category", "task", "source", "subset", "domain", "language")
"""Columns by which metrics are also reported."""
CONFIDENCE_BINS = 10


@dataclass(frozen=True)
class LabelledPairScoring(PairScoring):
    """Scoring of pairs with Cohen's kappa, and with the calibration of the votes if there are several."""

    def compute_metrics(self, outcomes: Sequence[ItemOutcome], seed: int) -> Metrics:
        """See `Scoring.compute_metrics`.

        `kappa` is the agreement beyond chance over A, B and ties. `calibration_error` is the mean difference between
        the share of the votes for the verdict and the share of right verdicts (ECE, arXiv 1706.04599).
        """
        metrics = super().compute_metrics(outcomes, seed)
        scored = [outcome for outcome in outcomes if outcome.combined_judgment.scores is not None]
        predictions = np.array([str(extract_prediction(outcome.combined_judgment)) for outcome in scored])
        labels = np.array([str(outcome.item.label) for outcome in scored])
        metrics["kappa"] = bootstrap_metric(
            lambda at: _compute_kappa(predictions[at], labels[at]), len(scored), seed, asked=len(outcomes)
        )
        confidences = [_measure_confidence(outcome) for outcome in scored]
        if any(confidence is not None for confidence in confidences):
            shares = np.array([confidence or 0.0 for confidence in confidences])
            right = (predictions == labels).astype(float)
            metrics["calibration_error"] = bootstrap_metric(
                lambda at: _compute_calibration_error(shares[at], right[at]), len(scored), seed, asked=len(outcomes)
            )
        return metrics


def _compute_kappa(predictions: Any, labels: Any) -> float:
    """Compute Cohen's kappa (scikit-learn); nan if both have the same single value throughout."""
    from sklearn.metrics import cohen_kappa_score

    if len({*predictions, *labels}) < 2:
        return math.nan
    return float(cohen_kappa_score(predictions, labels))


def _measure_confidence(outcome: ItemOutcome) -> float | None:
    """Measure the share of the votes for the verdict; None for a single vote."""
    votes = [extract_prediction(vote) for vote in outcome.votes if vote.scores is not None]
    if len(votes) < 2:
        return None
    return votes.count(extract_prediction(outcome.combined_judgment)) / len(votes)


def _compute_calibration_error(confidences: Any, right: Any) -> float:
    bins = np.minimum((confidences * CONFIDENCE_BINS).astype(int), CONFIDENCE_BINS - 1)
    counts = np.bincount(bins, minlength=CONFIDENCE_BINS)
    gaps = np.bincount(bins, weights=confidences - right, minlength=CONFIDENCE_BINS)
    return float(np.abs(gaps).sum() / max(1, counts.sum()))


def kendall(scores: Numbers, labels: Numbers) -> float:
    """Compute Kendall's tau-b (scipy); nan if either is constant or there are fewer than two values."""
    from scipy import stats

    return float(stats.kendalltau(scores, labels).statistic) if len({*scores}) > 1 < len({*labels}) else math.nan


class Labelled(Benchmark):
    """Pairs with a preferred response, or responses with human scores, in the user's own words.

    Args:
        rubric: Rubric of rows that name none.
    """

    spec = BenchmarkSpec(
        name=LABELLED,
        about="Labelled: one's own pairs or scores, against human labels",
        expected="rows with prompt and either responses and label (A, B, tie or an index from 0), or chosen and "
        "rejected, or responses and score (a number, or one for each response); optionally id, rubric, media and "
        f"{', '.join(GROUP_COLUMNS)}",
        patterns=("**/*.jsonl", "**/*.json", "**/*.csv|**/*.tsv", "**/*.parquet"),
        tasks={
            "pair": LabelledPairScoring(),
            # Only correlations, so the two scales may differ.
            "score": OpinionScoring(
                headline="spearman",
                system=None,
                functions={"pearson": pearson, "spearman": spearman, "kendall": kendall},
            ),
        },
        ids=("id", "uid"),
    )

    def __init__(self, rubric: str = "general") -> None:
        self.rubric = rubric

    def parse_items(self, data: BenchmarkData) -> list[Item]:
        """See `Benchmark.parse_items`."""
        records = [replace(record, data=read_cells(record.data)) for record in data.records]
        ids = assign_ids(records, self.spec.ids)
        items: list[Item] = []
        for record, item_id in zip(records, ids, strict=True):
            items += self._parse_record(record, item_id)
        return items

    def _parse_record(self, record: Record, item_id: str) -> list[Item]:
        """Parse a row into one pair, or into one item for each response with a score."""
        if record.get("prompt") is None:
            names = ", ".join(map(str, record.data))
            raise UsageError(
                f"{record.where}: field 'prompt' is missing; the columns are {names}; map one with --column prompt=NAME"
            )
        if record.get("chosen") is not None or record.get("rejected") is not None:
            chosen, rejected = record.require_value("chosen"), record.require_value("rejected")
            # The place of the better response must tell nothing, so that a judge that prefers one place gains nothing.
            better = hashlib.sha256(item_id.encode()).digest()[0] % 2
            responses = [rejected, chosen] if better else [chosen, rejected]
            return [self._make_item(record, item_id, "pair", responses, better)]
        responses = record.require_value("responses", "response")
        responses = responses if isinstance(responses, list) else [responses]
        if record.get("label") is not None:
            if len(responses) != 2:
                raise record.make_error("responses", "two responses for a 'label'", responses)
            return [self._make_item(record, item_id, "pair", responses, _parse_label(record))]
        scores = _parse_scores(record, len(responses))
        items = []
        for i, (response, score) in enumerate(zip(responses, scores, strict=True)):
            name = item_id if len(responses) == 1 else f"{item_id}/{i}"
            items.append(self._make_item(record, name, "score", [response], score))
        return items

    def _make_item(self, record: Record, item_id: str, task: str, responses: list[Any], label: Label) -> Item:
        rubric = record.get("rubric") or self.rubric
        try:
            load_rubric(rubric).check_response_count(len(responses))
        except UsageError as e:
            raise UsageError(f"{record.where}, field 'rubric': {e}") from e
        content = {"prompt": record.data["prompt"], "responses": responses}
        content |= {name: record.data[name] for name in (*PROMPT_COLUMNS, "view") if record.get(name) is not None}
        folders = list_media_folders((record.folder / record.file).absolute())
        groups = {name: str(record.data[name]) for name in GROUP_COLUMNS if record.get(name) is not None}
        return Item(ComparisonFileRow(item_id, record.where, content, rubric, folders), task, label, groups)


def _parse_label(record: Record) -> Label:
    value = record.data["label"]
    name = str(value).strip().upper().removeprefix("[[").removesuffix("]]")
    if name in NAMES:
        return NAMES[name]
    if isinstance(value, bool) or name.removesuffix(".0") not in ("0", "1"):
        raise record.make_error("label", "A, B, tie, or the index 0 or 1 of the better response", value)
    return int(float(name))


def _parse_scores(record: Record, count: int) -> list[float]:
    value = record.require_value("score", "scores", "label")
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) != count:
        raise record.make_error("score", f"{count} numbers, one for each response", value)
    scores = [read_number(number) for number in values]
    for number, score in zip(values, scores, strict=True):
        if math.isnan(score):
            raise record.make_error("score", "a number", number)
    return scores
