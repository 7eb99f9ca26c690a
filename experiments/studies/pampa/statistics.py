"""Metrics of answers about molecules.

Besides accuracy they include balanced accuracy and Matthews' correlation, which give a constant answer no more than
chance.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

from flex_judge.alignment.best_of_n.metrics import estimate_mean

SIZES = (1, 2, 4, 8, 16)
DRAWS = 10
Row = Mapping[str, Any]
"""Row of `best_of_n.jsonl`: `responses`, `scores`, `expected_scores`, and the label in `kept`.

`responses` is None for a molecule that could not be answered.
"""
LABEL = "label"


class AnswerReader(Protocol):
    """Reads the class that an answer names: a `ClassificationTask`, or the published reading."""

    def read_class(self, text: str) -> tuple[str | None, str]:
        """Return the class, or None, and the parsing outcome."""
        ...


UNANSWERED = "could not be answered"
"""Outcome of a molecule without an answer."""


def compute_accuracy_metrics(labels: Sequence[str], answers: Sequence[str | None]) -> dict[str, float | int | None]:
    """Compute the metrics of one answer per molecule. A missing answer is wrong in all of them.

    Args:
        labels: True class of each molecule.
        answers: Answered class of each molecule; None for no answer.

    Returns:
        A mapping with these keys:

        - `accuracy`: accuracy over all molecules.
        - `accuracy_answered`: accuracy over the answered molecules.
        - `balanced_accuracy`: mean recall over the classes.
        - `mcc`: Matthews' correlation (scikit-learn). A missing answer counts as the most frequent wrong class.
        - `answered`, `count`: number of answered molecules, and of all molecules.
    """
    from sklearn.metrics import matthews_corrcoef

    correct = mark_correct(labels, answers)
    correct_answered = [is_right for is_right, answer in zip(correct, answers, strict=True) if answer is not None]
    recalls = []
    for name in sorted(set(labels)):
        of_class = [is_right for is_right, label in zip(correct, labels, strict=True) if label == name]
        recalls.append(sum(of_class) / len(of_class))
    by_frequency = [name for name, _ in Counter(labels).most_common()]
    # Any wrong class would do for accuracy; a class of its own would raise the correlation.
    wrong = {label: next((name for name in by_frequency if name != label), "") for label in by_frequency}
    filled = [wrong[label] if answer is None else answer for label, answer in zip(labels, answers, strict=True)]
    return {
        "accuracy": sum(correct) / len(correct),
        "accuracy_answered": sum(correct_answered) / len(correct_answered) if correct_answered else None,
        "balanced_accuracy": statistics.fmean(recalls),
        "mcc": float(matthews_corrcoef(list(labels), filled)),
        "answered": len(correct_answered),
        "count": len(correct),
    }


def mark_correct(labels: Sequence[str], answers: Sequence[str | None]) -> list[bool]:
    """Mark for every molecule whether the answer is its class."""
    return [label == answer for label, answer in zip(labels, answers, strict=True)]


def compute_pass_at_1(rows: Sequence[Row], task: AnswerReader) -> dict[str, Any]:
    """Compute the metrics of the first answer to each molecule.

    Returns:
        Metrics of `compute_accuracy_metrics`, with the 95 % interval of the accuracy over molecules (`interval`) and
        the parsing outcomes (`outcomes`).
    """
    labels, answers = _get_labels(rows), read_first_answers(rows, task)
    # Outcomes are counted for the first answers only, like the metrics.
    first_responses = [{**row, "responses": (row["responses"] or [None])[:1]} for row in rows]
    return {
        **compute_accuracy_metrics(labels, answers),
        "interval": asdict(estimate_mean(map(float, mark_correct(labels, answers)))),
        "outcomes": count_outcomes(first_responses, task),
    }


def count_outcomes(rows: Sequence[Row], task: AnswerReader) -> dict[str, int]:
    """Count the parsing outcomes of all answers, most frequent first."""
    texts = [text for row in rows for text in (row["responses"] or [None])]
    return dict(Counter(UNANSWERED if text is None else task.read_class(text)[1] for text in texts).most_common())


def estimate_gain(before: Sequence[Row], after: Sequence[Row], task: AnswerReader) -> dict[str, Any]:
    """Estimate the gain in accuracy of first answers with a 95 % interval, from the differences per molecule."""
    correct_before, correct_after = (
        mark_correct(_get_labels(rows), read_first_answers(rows, task)) for rows in (before, after)
    )
    differences = [float(b) - float(a) for a, b in zip(correct_before, correct_after, strict=True)]
    return asdict(estimate_mean(differences, shares=False))


def compute_best_of_n(
    rows: Sequence[Row], task: AnswerReader, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Compute the metrics of the answer with the highest score among N, for every N in SIZES with enough answers.

    Each draw takes N random answers per molecule and breaks ties at random. A molecule without a scored answer counts
    as unanswered.

    Args:
        rows: Rows with sampled answers and their scores.
        task: Classification task, or another reader of answers.
        draws: Number of draws.
        seed: Seed of the draws.

    Returns:
        For each N (as a string): mean and standard deviation over draws of every metric, and the 95 % interval of the
        mean accuracy over molecules (`interval`). The deviation shrinks as N approaches the number of answers.
    """
    answers, labels = _read_answers(rows, task), _get_labels(rows)
    results: dict[str, dict[str, Any]] = {}
    for n in _list_sizes(answers):
        draw_metrics, right_counts = [], [0] * len(rows)
        for draw in range(draws):
            # Each size and draw has its own generator, so that results do not depend on the list of sizes.
            rng = random.Random(f"{seed}:{n}:{draw}")
            best = [_choose_best(row, row_answers, n, rng) for row, row_answers in zip(rows, answers, strict=True)]
            draw_metrics.append(compute_accuracy_metrics(labels, best))
            correct = mark_correct(labels, best)
            right_counts = [count + is_right for count, is_right in zip(right_counts, correct, strict=True)]
        names = [name for name in draw_metrics[0] if name != "count"]
        results[str(n)] = {name: _average_draws([metrics[name] for metrics in draw_metrics]) for name in names}
        interval = estimate_mean([count / draws for count in right_counts], shares=False)
        results[str(n)]["interval"] = asdict(interval)
    return results


def compute_pass_at_n(rows: Sequence[Row], task: AnswerReader) -> dict[str, float]:
    """Compute pass@N: the probability that at least one of N random answers is right, averaged over molecules."""
    answers, labels = _read_answers(rows, task), _get_labels(rows)
    results = {}
    for n in _list_sizes(answers):
        shares = []
        for row_answers, label in zip(answers, labels, strict=True):
            total = len(row_answers)
            wrong = sum(answer != label for answer in row_answers)
            # Exact expectation over all subsets of N answers (arXiv 2107.03374).
            shares.append(1 - math.comb(wrong, n) / math.comb(total, n) if total else 0.0)
        results[str(n)] = statistics.fmean(shares)
    return results


def read_first_answers(rows: Sequence[Row], task: AnswerReader) -> list[str | None]:
    """Read the class of the first answer to each molecule."""
    return [answers[0] if answers else None for answers in _read_answers(rows, task)]


def _read_answers(rows: Sequence[Row], task: AnswerReader) -> list[list[str | None]]:
    return [[task.read_class(text)[0] for text in row["responses"] or ()] for row in rows]


def _list_sizes(answers: Sequence[Sequence[str | None]]) -> list[int]:
    """List the values of N that every answered molecule has enough answers for."""
    limit = min((len(row_answers) for row_answers in answers if row_answers), default=0)
    return [size for size in SIZES if size <= limit]


def _get_labels(rows: Sequence[Row]) -> list[str]:
    return [row["kept"][LABEL] for row in rows]


def _choose_best(row: Row, answers: Sequence[str | None], n: int, rng: random.Random) -> str | None:
    """Choose the answer with the highest score among N random ones."""
    if not answers:
        return None
    scored = []
    for i in rng.sample(range(len(answers)), n):
        score = row["scores"][i]
        if score is not None:
            scored.append((score, i))
    if not scored:
        return None
    highest = max(score for score, _ in scored)
    return answers[rng.choice([i for score, i in scored if score == highest])]


def _average_draws(values: Sequence[float | int | None]) -> dict[str, float | None]:
    defined = [float(value) for value in values if value is not None and not math.isnan(value)]
    if not defined:
        return {"mean": None, "deviation": None}
    return {"mean": statistics.fmean(defined), "deviation": statistics.stdev(defined) if len(defined) > 1 else None}
