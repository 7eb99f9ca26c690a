"""What answers about molecules are worth: beside accuracy, what one who always says the same does not reach. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from flex_judge.alignment.best_of_n.metrics import estimate_mean
from flex_judge.experiments.studies.pampa.task import ClassificationTask

SIZES = (1, 2, 4, 8, 16)
DRAWS = 10
Row = Mapping[str, Any]
"""Of `best_of_n.jsonl`: `responses`, `scores`, `expected_scores`, and the label in `kept`. A molecule that no answer
could be had for has None as `responses`."""
LABEL = "label"
UNANSWERED = "could not be answered"
"""What came of reading where there was nothing to read."""


def compute_accuracy_metrics(labels: Sequence[str], said: Sequence[str | None]) -> dict[str, float | int | None]:
    """Figures of one answer to each molecule; None is no answer, and wrong in all of them.

    Returns:
        `accuracy`; `accuracy_answered`, over the answers; `balanced_accuracy`, the mean over classes of how many of a
        class are called so; `mcc`, Matthews' correlation, in which no answer is the most frequent of the wrong classes
        (scikit-learn); `answered`, `count`.
    """
    from sklearn.metrics import matthews_corrcoef

    right = mark_correct(labels, said)
    answered = [one for one, of in zip(right, said, strict=True) if of is not None]
    recalls = []
    for name in sorted(set(labels)):
        of_class = [one for one, label in zip(right, labels, strict=True) if label == name]
        recalls.append(sum(of_class) / len(of_class))
    often = [name for name, _ in Counter(labels).most_common()]
    wrong = {label: next((name for name in often if name != label), "") for label in often}
    told = [wrong[label] if one is None else one for label, one in zip(labels, said, strict=True)]
    return {
        "accuracy": sum(right) / len(right),
        "accuracy_answered": sum(answered) / len(answered) if answered else None,
        "balanced_accuracy": statistics.fmean(recalls),
        "mcc": float(matthews_corrcoef(list(labels), told)),
        "answered": len(answered),
        "count": len(right),
    }


def mark_correct(labels: Sequence[str], said: Sequence[str | None]) -> list[bool]:
    """Of every molecule whether the answer is its class."""
    return [label == one for label, one in zip(labels, said, strict=True)]


def compute_pass_at_1(rows: Sequence[Row], task: ClassificationTask) -> dict[str, Any]:
    """Figures of the first answer to each molecule, `interval` of its accuracy over molecules (95 %), and what came of
    reading the answers (`outcomes`)."""
    labels, said = _get_labels(rows), read_first_answers(rows, task)
    return {
        **compute_accuracy_metrics(labels, said),
        "interval": asdict(estimate_mean(map(float, mark_correct(labels, said)))),
        "outcomes": count_outcomes([{**row, "responses": (row["responses"] or [None])[:1]} for row in rows], task),
    }


def count_outcomes(rows: Sequence[Row], task: ClassificationTask) -> dict[str, int]:
    """What came of reading all answers, and how often."""
    texts = [text for row in rows for text in (row["responses"] or [None])]
    return dict(Counter(UNANSWERED if text is None else task.read_class(text)[1] for text in texts).most_common())


def estimate_gain(before: Sequence[Row], after: Sequence[Row], task: ClassificationTask) -> dict[str, Any]:
    """By how much the accuracy of first answers grows, molecule by molecule, with its 95 % interval."""
    of_before, of_after = (mark_correct(_get_labels(rows), read_first_answers(rows, task)) for rows in (before, after))
    differences = [float(b) - float(a) for a, b in zip(of_before, of_after, strict=True)]
    return asdict(estimate_mean(differences, shares=False))


def compute_best_of_n(
    rows: Sequence[Row], task: ClassificationTask, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Figures of the answer with the highest score among N, for every N of SIZES that there are answers for.

    In each draw N of a molecule's answers are taken at random, and so is one of those that score alike. A molecule of
    which none has a score has no answer, and stays in the count.

    Returns:
        By N: of each figure the mean over draws and their standard deviation, which is smaller the less there is left
        to draw; and `interval`, of the mean accuracy over molecules (95 %).
    """
    read, labels = _read_answers(rows, task), _get_labels(rows)
    most = min((len(answers) for answers in read if answers), default=0)
    found: dict[str, dict[str, Any]] = {}
    for n in (size for size in SIZES if size <= most):
        taken, hits = [], [0] * len(rows)
        for draw in range(draws):
            rng = random.Random(f"{seed}:{n}:{draw}")
            said = [_choose_best(row, answers, n, rng) for row, answers in zip(rows, read, strict=True)]
            taken.append(compute_accuracy_metrics(labels, said))
            hits = [hit + one for hit, one in zip(hits, mark_correct(labels, said), strict=True)]
        found[str(n)] = {name: _average_draws([one[name] for one in taken]) for name in taken[0] if name != "count"}
        found[str(n)]["interval"] = asdict(estimate_mean([hit / draws for hit in hits], shares=False))
    return found


def compute_pass_at_n(rows: Sequence[Row], task: ClassificationTask) -> dict[str, float]:
    """By N: how many molecules have a right answer among N of theirs, on the average over all ways to take N."""
    read, labels = _read_answers(rows, task), _get_labels(rows)
    most = min((len(answers) for answers in read if answers), default=0)
    found = {}
    for n in (size for size in SIZES if size <= most):
        shares = []
        for answers, label in zip(read, labels, strict=True):
            wrong = sum(one != label for one in answers)
            shares.append(1 - math.comb(wrong, n) / math.comb(len(answers), n) if answers else 0.0)
        found[str(n)] = statistics.fmean(shares)
    return found


def read_first_answers(rows: Sequence[Row], task: ClassificationTask) -> list[str | None]:
    """The class that the first answer to each molecule names."""
    return [answers[0] if answers else None for answers in _read_answers(rows, task)]


def _read_answers(rows: Sequence[Row], task: ClassificationTask) -> list[list[str | None]]:
    return [[task.read_class(text)[0] for text in row["responses"] or ()] for row in rows]


def _get_labels(rows: Sequence[Row]) -> list[str]:
    return [row["kept"][LABEL] for row in rows]


def _choose_best(row: Row, answers: Sequence[str | None], n: int, rng: random.Random) -> str | None:
    if not answers:
        return None
    some = rng.sample(range(len(answers)), n)
    scored = [(score, i) for i in some if (score := row["scores"][i]) is not None]
    if not scored:
        return None
    highest = max(score for score, _ in scored)
    return answers[rng.choice([i for score, i in scored if score == highest])]


def _average_draws(values: Sequence[float | int | None]) -> dict[str, float | None]:
    known = [float(value) for value in values if value is not None and not math.isnan(value)]
    if not known:
        return {"mean": None, "deviation": None}
    return {"mean": statistics.fmean(known), "deviation": statistics.stdev(known) if len(known) > 1 else None}
