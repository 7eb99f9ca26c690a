"""The evaluation of a judge: held-out judgments, judged as it will judge, and graded against the reference.

Training loss says how well a teacher's words are copied, not whether the verdicts are right. So the judge thinks and
answers here through `FlexJudge` itself, and an answer that had to be forced counts as not parsed.
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

ANSWER_TOKENS = 32
"""Tokens for the answer of an evaluation's verdict."""


@dataclass(frozen=True)
class HeldOutComparison:
    """A held-out judgment."""

    comparison: Comparison
    scores: tuple[float, ...]
    """The reference's, one a response, on the rubric's scale."""
    middle: float
    """Of the rubric's scale."""

    @property
    def side(self) -> int | None:
        """What the reference says: of several responses, which is best, -1 for none; of one, whether its score is
        above (1) or below (0) the middle of the scale. None where it says neither."""
        return find_side(self.scores, self.middle)


def find_side(scores: Sequence[float], middle: float) -> int | None:
    """See `Question.side`."""
    if len(scores) == 1:
        return None if scores[0] == middle else int(scores[0] > middle)
    best = find_preferred_response(tuple(scores))
    return -1 if best is None else best


@dataclass(frozen=True)
class JudgeMetrics:
    """Metrics of an evaluation; all but `asked` are shares, of 0 to 1, and None where nothing was asked."""

    asked: int
    parsed: float | None
    """Verdicts that the judge gave by itself, of all."""
    accuracy: float | None
    """Verdicts on the reference's side, of all where it is on one. Those without a score are wrong."""
    balanced_accuracy: float | None
    """The mean of that over the sides: of single responses over high and low, of pairs over first, second and tie."""
    agreement: float | None
    """Verdicts whose scores are exactly the reference's, of all."""
    pointwise: float | None
    """Balanced accuracy on single responses."""
    pairwise: float | None
    """Balanced accuracy on several responses."""


def build_held_out_comparisons(rows: Iterable[Mapping[str, Any]], name: str) -> list[HeldOutComparison]:
    """Held-out judgments as `flex-judge curate` writes them: `question`, `responses`, `rubric` and `reference_scores`,
    or else the `scores` that a teacher gave.

    Raises:
        UsageError: a row has not got them; named with `name` and the row.
    """
    found = []
    for number, row in enumerate(rows, 1):
        missing = [field for field in ("question", "responses", "rubric", "scores") if row.get(field) is None]
        if missing:
            raise UsageError(f"{name}, row {number}: has no {missing[0]!r}, which held-out judgments need")
        comparison = Comparison.of(row["question"], *row["responses"], rubric=row["rubric"], id=str(number))
        scores = tuple(float(score) for score in row.get("reference_scores") or row["scores"])
        if len(scores) != len(comparison.responses):
            raise UsageError(
                f"{name}, row {number}: field 'scores' has {len(scores)} for {len(comparison.responses)} responses"
            )
        found.append(HeldOutComparison(comparison, scores, load_rubric(row["rubric"]).scale.middle))
    return found


def make_evaluation_settings(think_tokens: int, reason_first: bool = True) -> JudgeSettings:
    """How a judge judges in an evaluation: greedily, once, with an answer forced where none comes."""
    return JudgeSettings(
        max_think_tokens=think_tokens,
        max_answer_tokens=ANSWER_TOKENS,
        temperature=0.0,
        top_p=1.0,
        reason_first=reason_first,
        deadline_s=None,
    )


def list_measurable_metrics(asked: Sequence[HeldOutComparison]) -> set[str]:
    """The metrics that can be computed on these questions."""
    silent = [Judgment.from_failure(question.comparison.id, Status.TIMEOUT, "") for question in asked]
    return {name for name, value in vars(compute_metrics(asked, silent)).items() if value is not None}


def compute_metrics(asked: Sequence[HeldOutComparison], judgments: Sequence[Judgment]) -> JudgeMetrics:
    """Grade judgments of the questions, in the same order."""
    sides: dict[tuple[bool, int], list[bool]] = {}
    exact, parsed = [], []
    for question, judgment in zip(asked, judgments, strict=True):
        parsed.append(judgment.scores is not None and all(vote.forced_answer is None for vote in judgment.votes))
        exact.append(judgment.scores == question.scores)
        if (wanted := question.side) is not None:
            said = find_verdict_side(judgment, question)
            sides.setdefault((len(question.scores) == 1, wanted), []).append(said == wanted)
    return JudgeMetrics(
        asked=len(asked),
        parsed=_compute_mean(parsed),
        accuracy=_compute_mean([right for found in sides.values() for right in found]),
        balanced_accuracy=_compute_balanced_mean(sides.values()),
        agreement=_compute_mean(exact),
        pointwise=_compute_balanced_mean([found for (single, _), found in sides.items() if single]),
        pairwise=_compute_balanced_mean([found for (single, _), found in sides.items() if not single]),
    )


def find_verdict_side(judgment: Judgment, question: HeldOutComparison) -> int | None:
    """What a judgment says, as `Question.side`; of several responses, by the majority of its votes. None without a
    score."""
    if judgment.scores is None:
        return None
    if len(judgment.scores) == 1:
        return find_side(judgment.scores, question.middle)
    return -1 if judgment.preferred is None else judgment.preferred


def _compute_mean(values: Sequence[bool]) -> float | None:
    return fmean(values) if values else None


def _compute_balanced_mean(sides: Iterable[Sequence[bool]]) -> float | None:
    means = [fmean(side) for side in sides]
    return fmean(means) if means else None
