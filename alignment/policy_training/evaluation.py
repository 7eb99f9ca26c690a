"""Comparison of a policy before and after training on the same held-out prompts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from flex_judge.alignment.best_of_n.metrics import estimate_mean, prefer_expected_scores
from flex_judge.alignment.data.rows import read_final_text
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.judges.errors import UsageError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptMeasurement:
    """Metrics of a policy on one prompt."""

    score: float | None
    """Mean score over the answers; None if no answer has a score.

    Expected scores are used if they exist, written scores otherwise.
    """
    right: float | None
    """Fraction of right answers; None if the right answer is unknown."""
    tokens: float
    """Mean length of the answers in tokens."""
    unscored: int
    """Number of answers without a score."""


def measure_row(row: Row, answer: str | None) -> PromptMeasurement:
    """Compute the metrics of one prompt.

    Args:
        row: Row of a best-of-N run.
        answer: Kept column with the right answer as a number; None if it is unknown.
    """
    scores = prefer_expected_scores(row)
    valid_scores = [score for score in scores if score is not None]
    responses = row["responses"]
    right = None
    if answer is not None:
        right = sum(is_correct_answer(read_final_text(r), row["kept"][answer]) for r in responses) / len(responses)
    return PromptMeasurement(
        score=math.fsum(valid_scores) / len(valid_scores) if valid_scores else None,
        right=right,
        tokens=math.fsum(row["tokens"]) / len(responses),
        unscored=len(scores) - len(valid_scores),
    )


def compare_policies(
    before: Iterable[Row], after: Iterable[Row], answer: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """Estimate the metrics of a policy before and after training and their difference, with 95 % intervals.

    Prompts without a result on both sides are excluded from all metrics. Prompts without a score on both sides are
    excluded from the scores. Both are counted.

    Args:
        before: Rows of a best-of-N run before training.
        after: Rows of a best-of-N run after training, over the same prompts.
        answer: Kept column with the right answer, see `measure_row`.
        seed: Seed of the bootstrap.

    Raises:
        UsageError: No prompt has a result on both sides.
    """
    first = {row["id"]: measure_row(row, answer) for row in before}
    second = {row["id"]: measure_row(row, answer) for row in after}
    # The difference is taken prompt by prompt, which removes the variance between prompts.
    pairs = [(first[name], second[name]) for name in first if name in second]
    if not pairs:
        raise UsageError("no held-out prompt was answered and judged both before and after training")
    scored = [(b.score, a.score) for b, a in pairs if b.score is not None and a.score is not None]
    right = [(b.right or 0.0, a.right or 0.0) for b, a in pairs]
    return {
        "prompts": len(pairs),
        "prompts_lost": len(first.keys() | second.keys()) - len(pairs),
        "prompts_without_a_score": len(pairs) - len(scored),
        "answers_without_a_score": {
            "before": sum(b.unscored for b, _ in pairs),
            "after": sum(a.unscored for _, a in pairs),
        },
        "score": _estimate_change(scored, seed) if scored else None,
        "right": _estimate_change(right, seed) if answer is not None else None,
        "tokens": _estimate_change([(b.tokens, a.tokens) for b, a in pairs], seed),
    }


def _estimate_change(values: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    return {
        "before": asdict(estimate_mean([b for b, _ in values], seed)),
        "after": asdict(estimate_mean([a for _, a in values], seed)),
        "difference": asdict(estimate_mean([a - b for b, a in values], seed, shares=False)),
    }
