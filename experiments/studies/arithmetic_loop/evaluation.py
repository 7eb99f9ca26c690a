"""Evaluation of the embedded judge on sampled answers to questions outside the training data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.rows import ReferenceRow
from flex_judge.alignment.curation.task_rows import build_task_rows
from flex_judge.alignment.data.normal_forms import fold_text
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.judge_training.evaluation import (
    HeldOutComparison,
    JudgeMetrics,
    compute_metrics,
    make_evaluation_settings,
)
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.alignment.tasks.synthetic_teacher import RIGHT_SCORE, WRONG_SCORE, Calculation, parse_question
from flex_judge.experiments.common.stopping import run_async
from flex_judge.experiments.studies.arithmetic_loop.questions import mirror_calculation
from flex_judge.judges.io.jsonl import read_rows
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Comparison

RUBRIC = "correctness"
THINK_TOKENS = 128
PAIRS = 120


@dataclass(frozen=True)
class EvaluationSet:
    """Comparisons that the judge is evaluated on."""

    pointwise: tuple[HeldOutComparison, ...]
    """Every distinct answer on its own."""
    pairwise: tuple[HeldOutComparison, ...]
    """Pairs of answers to a question, in the shares of `flex_judge.alignment.curation.task_rows.PAIR_MIX`."""
    swapped: tuple[HeldOutComparison, ...]
    """The same pairs with the answers in the other order."""

    @classmethod
    def from_samples(cls, samples: Path, pairwise: int = PAIRS, seed: int = 0) -> EvaluationSet:
        """Build the evaluation set from a file of sampled answers.

        Args:
            samples: File written by `samples.sample_answers`.
            pairwise: Maximum number of pairs.
            seed: Seed that decides which answers form pairs.
        """
        rubric = load_rubric(RUBRIC)

        def make_comparison(id: str, text: str, answers: Sequence[str], scores: Sequence[float]) -> HeldOutComparison:
            comparison = Comparison.of(text, *answers, rubric=RUBRIC, id=id)
            return HeldOutComparison(comparison, tuple(scores), rubric.scale.middle)

        singles = []
        for row in read_rows(samples, ["id", "prompt", "responses", "kept"]):
            # A policy often repeats an answer; each distinct one is judged once.
            distinct = {fold_text(answer): answer for answer in row["responses"] if answer.strip()}
            for k, answer in enumerate(distinct.values()):
                score = RIGHT_SCORE if is_correct_answer(answer, row["kept"]["answer"]) else WRONG_SCORE
                singles.append(make_comparison(f"{row['id']}/{k}", row["prompt"][0]["content"], [answer], [score]))
        task_rows = build_task_rows(open_source(str(samples)), seed)
        pairs = [row for row in task_rows if isinstance(row, ReferenceRow)][:pairwise]
        return cls(
            pointwise=tuple(singles),
            pairwise=tuple(make_comparison(row.id, row.question, row.answers, row.scores) for row in pairs),
            swapped=tuple(
                # Judgments are matched by id, so the swapped pair needs one of its own.
                make_comparison(f"{row.id} swapped", row.question, row.answers[::-1], row.scores[::-1])
                for row in pairs
            ),
        )

    @property
    def comparisons(self) -> tuple[HeldOutComparison, ...]:
        """All comparisons: pointwise, pairwise, swapped."""
        return self.pointwise + self.pairwise + self.swapped


@dataclass(frozen=True)
class EvaluationResults:
    """Metrics of an evaluation."""

    pointwise: JudgeMetrics
    unrelated: JudgeMetrics
    """Metrics on single answers whose mirrored calculation is not in the training data either."""
    pairwise: JudgeMetrics
    """Metrics on pairs in both orders."""
    swap_consistency: float | None
    """Fraction of pairs with the same verdict in both orders; pairs without a verdict count as inconsistent."""

    @property
    def parse_rate(self) -> float:
        """Fraction of verdicts that the judge gave without a forced answer."""
        # Both groups count by their number of verdicts.
        parts = [(m.parsed, m.asked) for m in (self.pointwise, self.pairwise) if m.parsed is not None]
        return sum(share * count for share, count in parts) / sum(count for _, count in parts)

    def to_json(self) -> dict[str, Any]:
        """Convert the results to a JSON object."""
        return {**asdict(self), "parsed": self.parse_rate}


def judge_evaluation_set(
    judge: FlexJudge, evaluation_set: EvaluationSet, advance: Callable[[], object]
) -> list[Judgment]:
    """Judge all comparisons of an evaluation set.

    Args:
        judge: Judge with the settings of `make_study_settings`.
        evaluation_set: Comparisons to judge.
        advance: Function that is called after each judgment.

    Returns:
        Judgments in the order of `evaluation_set.comparisons`.
    """

    async def judge_all() -> list[Judgment]:
        by_id = {}
        async for judgment in judge.astream([item.comparison for item in evaluation_set.comparisons]):
            by_id[judgment.id] = judgment
            advance()
        return [by_id[item.comparison.id] for item in evaluation_set.comparisons]

    return run_async(judge_all())


def make_study_settings(reason_first: bool = True) -> JudgeSettings:
    """Make the judge settings of the evaluation: greedy decoding, one vote, forced answer as a fallback."""
    return make_evaluation_settings(THINK_TOKENS, reason_first)


def grade_judgments(
    evaluation_set: EvaluationSet, judgments: Sequence[Judgment], trained: Collection[Calculation]
) -> EvaluationResults:
    """Compute the metrics of judgments.

    Args:
        evaluation_set: Judged comparisons.
        judgments: Judgments in the order of `evaluation_set.comparisons`.
        trained: Calculations in the training data.
    """
    n, k = len(evaluation_set.pointwise), len(evaluation_set.pairwise)
    pointwise, pairwise, swapped = judgments[:n], judgments[n : n + k], judgments[n + k :]
    unrelated = [
        i
        for i, item in enumerate(evaluation_set.pointwise)
        if mirror_calculation(_parse_calculation(item)) not in trained
    ]
    consistent = [_is_same_verdict(original, swap) for original, swap in zip(pairwise, swapped, strict=True)]
    return EvaluationResults(
        pointwise=compute_metrics(evaluation_set.pointwise, pointwise),
        unrelated=compute_metrics([evaluation_set.pointwise[i] for i in unrelated], [pointwise[i] for i in unrelated]),
        pairwise=compute_metrics(evaluation_set.pairwise + evaluation_set.swapped, judgments[n:]),
        swap_consistency=sum(consistent) / k if k else None,
    )


def _parse_calculation(item: HeldOutComparison) -> Calculation:
    return parse_question(str(item.comparison.prompt[0].content))


def _is_same_verdict(original: Judgment, swapped: Judgment) -> bool:
    """Check whether two judgments of a pair, in both orders, prefer the same answer or are both ties."""
    if original.scores is None or swapped.scores is None:
        return False
    first, second = original.preferred, swapped.preferred
    if first is None or second is None:
        return first is second
    return first == 1 - second
