"""What answers about molecules are worth: beside accuracy, what one who always says the same does not reach. Pure."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.pampa.task import Task

SIZES = (1, 2, 4, 8, 16)
DRAWS = 10
Row = Mapping[str, Any]
"""Of `best_of_n.jsonl`: `responses`, `scores`, `expected_scores`, and the label in `kept`."""
LABEL = "label"


def measures(labels: Sequence[str], said: Sequence[str | None]) -> dict[str, float | int | None]:
    """Figures of one answer to each molecule; None is no answer.

    Returns:
        `accuracy`, with what is no answer as wrong; `accuracy_answered`, over the others; `balanced_accuracy`, the mean
        over classes of how many of a class are called so; `mcc`, Matthews' correlation, with no answer as a class of
        its own (scikit-learn); `answered`, `count`.
    """
    from sklearn.metrics import matthews_corrcoef

    right = [label == one for label, one in zip(labels, said, strict=True)]
    answered = [one for one, of in zip(right, said, strict=True) if of is not None]
    recalls = []
    for name in sorted(set(labels)):
        of_class = [one for one, label in zip(right, labels, strict=True) if label == name]
        recalls.append(sum(of_class) / len(of_class))
    return {
        "accuracy": sum(right) / len(right),
        "accuracy_answered": sum(answered) / len(answered) if answered else None,
        "balanced_accuracy": statistics.fmean(recalls),
        "mcc": float(matthews_corrcoef(list(labels), [one or "" for one in said])),
        "answered": len(answered),
        "count": len(right),
    }


def of_first(rows: Sequence[Row], task: Task) -> dict[str, Any]:
    """Figures of the first answer to each molecule, and what came of reading them."""
    read = [task.answered(row["responses"][0]) for row in rows]
    found = measures([row["kept"][LABEL] for row in rows], [said for said, _ in read])
    return {**found, "outcomes": dict(Counter(outcome for _, outcome in read).most_common())}


def of_best(rows: Sequence[Row], task: Task, draws: int = DRAWS, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Figures of the answer with the highest score among N, for every N of SIZES that there are answers for.

    In each draw N of a molecule's answers are taken at random, and so is one of those that score alike. A molecule of
    which none has a score has no answer, and stays in the count.

    Returns:
        By N: of each figure the mean over draws, and their standard deviation.
    """
    most = min(len(row["responses"]) for row in rows)
    read = [[task.answered(text)[0] for text in row["responses"]] for row in rows]
    labels = [row["kept"][LABEL] for row in rows]
    found = {}
    for n in (size for size in SIZES if size <= most):
        taken = []
        for draw in range(draws):
            rng = random.Random(f"{seed}:{n}:{draw}")
            said = [_best(row, answers, n, rng) for row, answers in zip(rows, read, strict=True)]
            taken.append(measures(labels, said))
        found[str(n)] = {name: _over_draws([one[name] for one in taken]) for name in taken[0] if name != "count"}
    return found


def of_any(rows: Sequence[Row], task: Task) -> float:
    """How many molecules have a right answer among all that were given."""
    hits = [any(task.answered(text)[0] == row["kept"][LABEL] for text in row["responses"]) for row in rows]
    return sum(hits) / len(hits)


def _best(row: Row, answers: Sequence[str | None], n: int, rng: random.Random) -> str | None:
    some = rng.sample(range(len(answers)), n)
    scored = [(score, i) for i in some if (score := row["scores"][i]) is not None]
    if not scored:
        return None
    highest = max(score for score, _ in scored)
    return answers[rng.choice([i for score, i in scored if score == highest])]


def _over_draws(values: Sequence[float | int | None]) -> dict[str, float | None]:
    known = [float(value) for value in values if value is not None and not math.isnan(value)]
    if not known:
        return {"mean": None, "deviation": None}
    return {"mean": statistics.fmean(known), "deviation": statistics.stdev(known) if len(known) > 1 else None}
