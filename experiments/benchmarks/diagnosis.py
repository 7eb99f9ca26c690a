"""Diagnosis for the report page: calibration, biases and the worst errors of a judge.

Plain counts; none of them is a metric of a benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flex_judge.experiments.benchmarks.best_of import BestOfScoring
from flex_judge.experiments.benchmarks.items import BETTER_OPTIONS, TIE, ItemOutcome, extract_prediction, is_right
from flex_judge.experiments.benchmarks.metrics import spearman
from flex_judge.experiments.benchmarks.scores import OpinionScoring, RankingScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring, Scoring

WORST_COUNT = 8
"""Number of items per task shown in full."""
MAX_MARGIN = 5
"""Margins from this one on share a bin."""


def compute_calibration(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> list[dict[str, Any]]:
    """Compute how right the judge is at each of its own scores.

    Returns:
        For pairs judged by scores: for each margin between the two scores, the number of items and the fraction that
        agrees with the label. For single scores: for each score, the number of items and the mean label. Empty for
        other tasks.
    """
    bins: dict[int, list[float]] = {}
    if isinstance(scoring, PairScoring) and not scoring.by_options:
        quantity = "right"
        for outcome in outcomes:
            scores = outcome.combined_judgment.scores
            if scores is not None and outcome.item.label != TIE:
                margin = min(MAX_MARGIN, round(abs(scores[0] - scores[1])))
                is_right = extract_prediction(outcome.combined_judgment) == outcome.item.label
                bins.setdefault(margin, []).append(float(is_right))
    elif not isinstance(scoring, PairScoring | RankingScoring):
        quantity = "label"
        for outcome in outcomes:
            # On the judge's own scale, not mapped to the scale of the labels.
            if outcome.score is not None and isinstance(outcome.item.label, int | float):
                bins.setdefault(round(outcome.score), []).append(float(outcome.item.label))
    else:
        return []
    return [
        {"at": score, "count": len(values), "mean": sum(values) / len(values), "of": quantity}
        for score, values in sorted(bins.items())
    ]


def measure_biases(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> dict[str, float | int | None]:
    """Measure biases of the judge, and the same quantities for the human labels of the same items.

    Returns:
        For pairs: `first_read` (among votes with a preference, the fraction for the response read first) and
        `first_read_labels` (the fraction of these whose label is that response); `longer` and `longer_labels` (the same
        for the longer response); `ties` and `ties_labels`. For single scores: `length` and `length_labels` (Spearman's
        correlation with the length of the response). None where there is no data.
    """
    if isinstance(scoring, PairScoring):
        return _measure_pair_biases(outcomes, scoring.by_options)
    rows = [
        (outcome.score, outcome.item.label, outcome.lengths[0])
        for outcome in outcomes
        if outcome.score is not None and isinstance(outcome.item.label, int | float) and outcome.lengths[0]
    ]
    if isinstance(scoring, RankingScoring) or len(rows) < 2:
        return {}
    scores, labels, lengths = (list(column) for column in zip(*rows, strict=True))
    return {"length": _nan_to_none(spearman(scores, lengths)), "length_labels": _nan_to_none(spearman(labels, lengths))}


def find_worst_items(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> list[tuple[ItemOutcome, float]]:
    """Find the largest deviations of the judge from the labels, worst first, with the size of the error.

    For pairs, these are wrong decisions ordered by the margin of the scores.
    """
    errors = []
    for outcome in outcomes:
        error = _compute_error(scoring, outcome)
        if error:
            errors.append((outcome, error))
    return sorted(errors, key=lambda pair: (-pair[1], pair[0].item.id))[:WORST_COUNT]


def _compute_error(scoring: Scoring, outcome: ItemOutcome) -> float | None:
    """Compute the size of the judge's error on an item; None without a verdict or for a right decision."""
    if isinstance(scoring, RankingScoring):
        return scoring.compute_distance(outcome)[0]
    if isinstance(scoring, BestOfScoring):
        return _measure_lead_of_wrong_answers(outcome)
    if not isinstance(scoring, PairScoring):
        label, score = outcome.item.label, outcome.score
        if score is None or not isinstance(label, int | float):
            return None
        return abs(float(scoring.rescale_score(score) if isinstance(scoring, OpinionScoring) else score) - label)
    judgment = outcome.combined_judgment
    prediction = extract_prediction(judgment, scoring.by_options)
    if judgment.scores is None or is_right(prediction, outcome.item.label):
        return None
    # The small constant lists a wrong tie (margin 0), but after every wrong preference.
    return 1e-6 + abs(judgment.scores[0] - judgment.scores[1])


def _measure_lead_of_wrong_answers(outcome: ItemOutcome) -> float | None:
    """Measure by how much the best wrong answer beats the right ones; None if it does not, or for a single answer."""
    scores, label = outcome.combined_judgment.scores, outcome.item.label
    if scores is None or not isinstance(label, tuple):
        return None
    lead = max(scores[len(label) :]) - max(scores[: len(label)])
    return lead if lead > 0 else None


def _measure_pair_biases(outcomes: Sequence[ItemOutcome], by_options: bool) -> dict[str, float | int | None]:
    first, first_labels, longer, longer_labels, ties, tie_labels = [], [], [], [], [], []
    for outcome in outcomes:
        label = outcome.item.label
        tie_labels.append(label not in (0, 1, "A>B", "B>A"))
        better = BETTER_OPTIONS.get(str(label), label) if by_options else label
        lengths = outcome.lengths
        for vote in outcome.votes:
            if vote.scores is None:
                continue
            ties.append(vote.preferred is None)
            if vote.preferred is None or better not in (0, 1):
                continue
            read_first = vote.order[0] if vote.order else 0
            first.append(vote.preferred == read_first)
            first_labels.append(better == read_first)
            if lengths[0] != lengths[1]:
                longer_index = int(lengths[1] > lengths[0])
                longer.append(vote.preferred == longer_index)
                longer_labels.append(better == longer_index)
    return {
        "votes": len(ties),
        "first_read": _share_true(first),
        "first_read_labels": _share_true(first_labels),
        "longer": _share_true(longer),
        "longer_labels": _share_true(longer_labels),
        "ties": _share_true(ties),
        "ties_labels": _share_true(tie_labels),
    }


def _share_true(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value
