"""What lies behind the figures: how scores relate to being right, what else the judge goes by, and where it erred most.

Plain counts for the report page; nothing here is a benchmark's metric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flex_judge.experiments.benchmarks.items import TIE, ItemOutcome, extract_prediction
from flex_judge.experiments.benchmarks.metrics import spearman
from flex_judge.experiments.benchmarks.scores import OpinionScoring, RankingScoring
from flex_judge.experiments.benchmarks.scoring import PairScoring, Scoring

WORST_COUNT = 8
"""Items of each task that are shown in full."""
MAX_MARGIN = 5
"""Margins of this and more are one bin."""


def compute_calibration(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> list[dict[str, Any]]:
    """How right the judge is at each of its own scores.

    Returns:
        Of pairs by scores, for each margin between the two: how many there are, and the share that prefers what people
        prefer. Of single scores, for each score: how many, and the mean of people's. Empty for others.
    """
    bins: dict[int, list[float]] = {}
    if isinstance(scoring, PairScoring) and not scoring.by_options:
        for one in outcomes:
            if (scores := one.combined_judgment.scores) is not None and one.item.label != TIE:
                margin = min(MAX_MARGIN, round(abs(scores[0] - scores[1])))
                bins.setdefault(margin, []).append(float(extract_prediction(one.combined_judgment) == one.item.label))
        title = "right"
    elif not isinstance(scoring, PairScoring | RankingScoring):
        for one in outcomes:
            if one.score is not None and isinstance(one.item.label, int | float):  # by the judge's own scores
                bins.setdefault(round(one.score), []).append(float(one.item.label))
        title = "people's score"
    else:
        return []
    return [
        {"at": at, "count": len(values), "mean": sum(values) / len(values), "of": title}
        for at, values in sorted(bins.items())
    ]


def measure_biases(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> dict[str, float | int | None]:
    """What a judge may go by instead of quality, beside what people's labels say of the same items.

    Returns:
        Of pairs: `first_read` (share of votes, of those that prefer one, for the response that was read first),
        `first_read_labels` (for how many of these the label is that one), `longer` and `longer_labels` (the same of the
        longer response), `ties` and `ties_labels`. Of single scores: `length`, `length_labels` (Spearman's correlation
        with the response's length). None where there is nothing to go by.
    """
    if isinstance(scoring, PairScoring):
        return _measure_pair_biases(outcomes, scoring.by_options)
    known = [(one.score, one.item.label, one.lengths[0]) for one in outcomes if one.score is not None]
    rows = [(score, label, length) for score, label, length in known if isinstance(label, int | float) and length]
    if isinstance(scoring, RankingScoring) or len(rows) < 2:
        return {}
    scores, labels, lengths = (list(column) for column in zip(*rows, strict=True))
    return {"length": _nan_to_none(spearman(scores, lengths)), "length_labels": _nan_to_none(spearman(labels, lengths))}


def find_worst_items(scoring: Scoring, outcomes: Sequence[ItemOutcome]) -> list[tuple[ItemOutcome, float]]:
    """The items on which the judge was furthest from people, the worst first, with how far: of pairs those decided the
    wrong way, by their margin."""
    found = []
    for one in outcomes:
        distance = _compute_error(scoring, one)
        if distance:
            found.append((one, distance))
    return sorted(found, key=lambda pair: (-pair[1], pair[0].item.id))[:WORST_COUNT]


def _compute_error(scoring: Scoring, outcome: ItemOutcome) -> float | None:
    if isinstance(scoring, RankingScoring):
        return scoring.compute_distance(outcome)[0]
    if not isinstance(scoring, PairScoring):
        label, score = outcome.item.label, outcome.score
        if score is None or not isinstance(label, int | float):
            return None
        return abs(float(scoring.rescale_score(score) if isinstance(scoring, OpinionScoring) else score) - label)
    said = outcome.combined_judgment
    predicted = extract_prediction(said, scoring.by_options)
    if said.scores is None or predicted == outcome.item.label:
        return None
    # A tie where there is none is a smaller fault than the wrong way round.
    return 1e-6 + abs(said.scores[0] - said.scores[1])


def _measure_pair_biases(outcomes: Sequence[ItemOutcome], by_options: bool) -> dict[str, float | int | None]:
    first, first_labels, longer, longer_labels, ties, tied_labels = [], [], [], [], [], []
    for one in outcomes:
        label = one.item.label
        tied_labels.append(label not in (0, 1, "A>B", "B>A"))
        lengths = one.lengths
        for vote in one.votes:
            if vote.scores is None:
                continue
            ties.append(vote.preferred is None)
            better = {"A>B": 0, "B>A": 1}.get(str(label), label) if by_options else label
            if vote.preferred is not None and better in (0, 1):
                read = vote.order[0] if vote.order else 0
                first.append(vote.preferred == read)
                first_labels.append(better == read)
                if lengths[0] != lengths[1]:
                    long = int(lengths[1] > lengths[0])
                    longer.append(vote.preferred == long)
                    longer_labels.append(better == long)
    return {
        "votes": len(ties),
        "first_read": _share_true(first),
        "first_read_labels": _share_true(first_labels),
        "longer": _share_true(longer),
        "longer_labels": _share_true(longer_labels),
        "ties": _share_true(ties),
        "ties_labels": _share_true(tied_labels),
    }


def _share_true(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _nan_to_none(value: float) -> float | None:
    return None if value != value else value
