"""Evaluation of a judge on held-out judgments.

Training loss measures how well the judge imitates the teacher's words, not whether its verdicts are right. The
evaluation therefore runs the judge through `FlexJudge` itself. A forced answer counts as not parsed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, find_preferred_response
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.floats import read_optional_floats

ANSWER_TOKENS = 32
"""Maximum length of an answer in tokens during the evaluation."""


@dataclass(frozen=True)
class HeldOutComparison:
    """Comparison with its reference scores."""

    comparison: Comparison
    scores: tuple[float, ...]
    """Reference scores, one per response, on the scale of the rubric."""
    middle: float
    """Middle of the rubric's scale."""

    @property
    def side(self) -> int | None:
        """Side of the reference scores, see `find_side`."""
        return find_side(self.scores, self.middle)


def find_side(scores: Sequence[float], middle: float) -> int | None:
    """Find the side that scores are on.

    Args:
        scores: Scores of one response, or of several.
        middle: Middle of the scale.

    Returns:
        For one response: 1 above the middle of the scale, 0 below, None exactly on it. For several responses: the index
        of the best one, -1 for a tie.
    """
    if len(scores) == 1:
        return None if scores[0] == middle else int(scores[0] > middle)
    best = find_preferred_response(tuple(scores))
    return -1 if best is None else best


@dataclass(frozen=True)
class JudgeMetrics:
    """Metrics of an evaluation.

    All metrics except `asked` are fractions from 0 to 1, and None if no comparison contributes to them.
    """

    asked: int
    """Number of comparisons."""
    parsed: float | None
    """Fraction of verdicts that the judge gave without a forced answer."""
    accuracy: float | None
    """Fraction of verdicts on the side of the reference.

    Verdicts without a score count as wrong. References without a side are excluded.
    """
    balanced_accuracy: float | None
    """Mean accuracy over the sides: high and low for one response; first, second and tie for two."""
    agreement: float | None
    """Fraction of verdicts whose scores equal the reference scores."""
    pointwise: float | None
    """Balanced accuracy on single responses."""
    pairwise: float | None
    """Balanced accuracy on several responses."""


def build_held_out_comparisons(rows: Iterable[Mapping[str, Any]], name: str) -> list[HeldOutComparison]:
    """Build comparisons from held-out judgments written by `flex-judge curate`.

    Args:
        rows: Rows with `question`, `responses`, `rubric` and `scores`. The `scores` are the teacher's; the field
            `reference_scores` takes precedence if it is present.
        name: Name of the file, for messages.

    Raises:
        UsageError: A row lacks a field or has the wrong number of scores.
    """
    comparisons = []
    for number, row in enumerate(rows, 1):
        missing = [field for field in ("question", "responses", "rubric", "scores") if row.get(field) is None]
        if missing:
            raise UsageError(f"{name}, row {number}: field {missing[0]!r} is missing; held-out judgments need it")
        # The row number is the id, because ids in a file need not be unique.
        comparison = Comparison.of(row["question"], *row["responses"], rubric=row["rubric"], id=str(number))
        field = "reference_scores" if row.get("reference_scores") else "scores"
        scores = read_optional_floats(row[field], f"{name}, row {number}: field {field!r}") or ()
        if len(scores) != len(comparison.responses):
            raise UsageError(
                f"{name}, row {number}: field {field!r}: expected {len(comparison.responses)} numbers (one per "
                f"response), got {len(scores)}"
            )
        comparisons.append(HeldOutComparison(comparison, scores, load_rubric(row["rubric"]).scale.middle))
    return comparisons


def make_evaluation_settings(think_tokens: int, reason_first: bool = True) -> JudgeSettings:
    """Make the judge settings of an evaluation: greedy decoding, one vote, forced answer as a fallback.

    Args:
        think_tokens: Thinking budget in tokens.
        reason_first: Whether the judge reasons before it answers.
    """
    return JudgeSettings(
        max_think_tokens=think_tokens,
        max_answer_tokens=ANSWER_TOKENS,
        temperature=0.0,
        top_p=1.0,
        reason_first=reason_first,
        # No deadline: the metrics must not depend on the speed of the machine.
        deadline_s=None,
    )


def list_measurable_metrics(comparisons: Sequence[HeldOutComparison]) -> set[str]:
    """List the metrics that can be computed on comparisons."""
    unscored = [Judgment.from_failure(item.comparison.id, Status.TIMEOUT, "") for item in comparisons]
    return {name for name, value in vars(compute_metrics(comparisons, unscored)).items() if value is not None}


def compute_metrics(comparisons: Sequence[HeldOutComparison], judgments: Sequence[Judgment]) -> JudgeMetrics:
    """Compute metrics of judgments against the reference scores.

    Args:
        comparisons: Judged comparisons.
        judgments: Judgments of the comparisons, in the same order.
    """
    # Correctness of the verdicts, grouped by kind (pointwise or not) and side of the reference.
    outcomes: dict[tuple[bool, int], list[bool]] = {}
    exact, parsed = [], []
    for expected, judgment in zip(comparisons, judgments, strict=True):
        parsed.append(judgment.scores is not None and all(vote.forced_answer is None for vote in judgment.votes))
        exact.append(judgment.scores == expected.scores)
        side = expected.side
        if side is not None:
            is_right = find_verdict_side(judgment, expected) == side
            outcomes.setdefault((len(expected.scores) == 1, side), []).append(is_right)
    return JudgeMetrics(
        asked=len(comparisons),
        parsed=_compute_mean(parsed),
        accuracy=_compute_mean([is_right for group in outcomes.values() for is_right in group]),
        balanced_accuracy=_compute_balanced_mean(outcomes.values()),
        agreement=_compute_mean(exact),
        pointwise=_compute_balanced_mean([group for (is_single, _), group in outcomes.items() if is_single]),
        pairwise=_compute_balanced_mean([group for (is_single, _), group in outcomes.items() if not is_single]),
    )


def find_verdict_side(judgment: Judgment, expected: HeldOutComparison) -> int | None:
    """Find the side of a judgment, see `find_side`; None without a score.

    For several responses the majority of the votes decides, not the mean scores.
    """
    if judgment.scores is None:
        return None
    if len(judgment.scores) == 1:
        return find_side(judgment.scores, expected.middle)
    return -1 if judgment.preferred is None else judgment.preferred


def _compute_mean(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None


def _compute_balanced_mean(groups: Iterable[Sequence[bool]]) -> float | None:
    means = [fmean(group) for group in groups]
    return fmean(means) if means else None
