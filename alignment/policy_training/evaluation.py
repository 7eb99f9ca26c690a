"""Two policies measured on the same prompts: figures of both, and of their difference prompt by prompt. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flex_judge.alignment.best_of_n.metrics import estimate_mean, prefer_expected_scores
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.judges.errors import UsageError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptMeasurement:
    """What was seen of a policy on a prompt."""

    score: float | None
    """The mean of its answers' expected scores, written ones where there are none; None where none has a score."""
    right: float | None
    """The share of its answers that are right; None where that is not known."""
    tokens: float
    """The mean length of its answers."""
    unscored: int
    """Answers without a score."""


def measure_row(row: Row, answer: str | None) -> PromptMeasurement:
    """A row that a best-of-N run wrote, as a measurement of the policy that answered.

    Args:
        answer: the kept column with the number that is the right answer.
    """
    scores = prefer_expected_scores(row)
    known = [score for score in scores if score is not None]
    said = row["responses"]
    return PromptMeasurement(
        math.fsum(known) / len(known) if known else None,
        None if answer is None else sum(is_correct_answer(text, row["kept"][answer]) for text in said) / len(said),
        math.fsum(row["tokens"]) / len(said),
        len(scores) - len(known),
    )


def compare_policies(
    before: Iterable[Row], after: Iterable[Row], answer: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Figures of two policies, each with a 95 % interval over prompts, and of their difference.

    Prompts that only one of them has a result for are left out of all, and those on which one has no score out of the
    scores; both are counted.

    Args:
        before, after: rows of best-of-N runs over the same prompts.
        answer: see `measured`.

    Raises:
        UsageError: there is no prompt that both have a result for.
    """
    first = {row["id"]: measure_row(row, answer) for row in before}
    second = {row["id"]: measure_row(row, answer) for row in after}
    pairs = [(first[name], second[name]) for name in first if name in second]
    if not pairs:
        raise UsageError("no held-out prompt was answered and judged both before and after")
    scored = [(b.score, a.score) for b, a in pairs if b.score is not None and a.score is not None]
    return {
        "prompts": len(pairs),
        "prompts_lost": len(first.keys() | second.keys()) - len(pairs),
        "prompts_without_a_score": len(pairs) - len(scored),
        "answers_without_a_score": {
            "before": sum(b.unscored for b, _ in pairs),
            "after": sum(a.unscored for _, a in pairs),
        },
        "score": _estimate_change(scored, seed) if scored else None,
        "right": _estimate_change([(b.right or 0.0, a.right or 0.0) for b, a in pairs], seed)
        if answer is not None
        else None,
        "tokens": _estimate_change([(b.tokens, a.tokens) for b, a in pairs], seed),
    }


def _estimate_change(values: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    return {
        "before": asdict(estimate_mean([b for b, _ in values], seed)),
        "after": asdict(estimate_mean([a for _, a in values], seed)),
        "difference": asdict(estimate_mean([a - b for b, a in values], seed, shares=False)),
    }
