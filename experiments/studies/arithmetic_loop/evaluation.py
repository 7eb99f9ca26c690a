"""Evaluation of the embedded judge: answers that the policy sampled to questions outside the training data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.rows import ReferenceRow
from flex_judge.alignment.curation.task_rows import build_task_rows
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.data.texts import normalise_text
from flex_judge.alignment.judge_training.evaluation import (
    HeldOutComparison,
    JudgeMetrics,
    compute_metrics,
    make_evaluation_settings,
)
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.alignment.tasks.synthetic_teacher import RIGHT_SCORE, WRONG_SCORE, Calculation, parse_question
from flex_judge.experiments.studies.arithmetic_loop.questions import mirror_sum
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
    """What is asked."""

    pointwise: tuple[HeldOutComparison, ...]
    """Each different answer by itself."""
    pairwise: tuple[HeldOutComparison, ...]
    """Two answers to a question, in the shares of `flex_judge.alignment.curation.task_rows.MIX`."""
    swapped: tuple[HeldOutComparison, ...]
    """The same pairs, the other answer first."""

    @classmethod
    def from_samples(cls, samples: Path, pairwise: int = PAIRS, seed: int = 0) -> EvaluationSet:
        """The evaluation on a file of the policy's answers, see `samples.sample`."""
        rubric = load_rubric(RUBRIC)

        def make_comparison(id: str, text: str, answers: Sequence[str], scores: Sequence[float]) -> HeldOutComparison:
            comparison = Comparison.of(text, *answers, rubric=RUBRIC, id=id)
            return HeldOutComparison(comparison, tuple(scores), rubric.scale.middle)

        pointwise = []
        for row in read_rows(samples, ["id", "prompt", "responses", "kept"]):
            different = {normalise_text(answer): answer for answer in row["responses"] if answer.strip()}
            for k, answer in enumerate(different.values()):
                score = RIGHT_SCORE if is_correct_answer(answer, row["kept"]["answer"]) else WRONG_SCORE
                pointwise.append(make_comparison(f"{row['id']}/{k}", row["prompt"][0]["content"], [answer], [score]))
        found = [row for row in build_task_rows(open_source(str(samples)), seed) if isinstance(row, ReferenceRow)][
            :pairwise
        ]
        return cls(
            tuple(pointwise),
            tuple(make_comparison(row.id, row.question, row.answers, row.scores) for row in found),
            tuple(
                make_comparison(f"{row.id} swapped", row.question, row.answers[::-1], row.scores[::-1]) for row in found
            ),
        )

    @property
    def comparisons(self) -> tuple[HeldOutComparison, ...]:
        return self.pointwise + self.pairwise + self.swapped


@dataclass(frozen=True)
class EvaluationResults:
    """Metrics of an evaluation."""

    pointwise: JudgeMetrics
    unrelated: JudgeMetrics
    """Of singles whose sum is not taught the other way round either."""
    pairwise: JudgeMetrics
    """In both orders."""
    swap_consistency: float | None
    """Pairs of which the other order gives the same verdict, of all pairs; those without a verdict are not."""

    @property
    def parse_rate(self) -> float:
        """Verdicts that the judge gave by itself, of all."""
        parts = [(g.parsed, g.asked) for g in (self.pointwise, self.pairwise) if g.parsed is not None]
        return sum(share * asked for share, asked in parts) / sum(asked for _, asked in parts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "parsed": self.parse_rate}


def judge_evaluation_set(judge: FlexJudge, paper: EvaluationSet, advance: Callable[[], object]) -> list[Judgment]:
    """A judge's judgments of a paper's questions, in their order.

    Args:
        judge: with the settings of `evaluation_settings`.
        advance: is called after each.
    """

    async def judge_all() -> list[Judgment]:
        found = {}
        async for judgment in judge.astream([question.comparison for question in paper.comparisons]):
            found[judgment.id] = judgment
            advance()
        return [found[question.comparison.id] for question in paper.comparisons]

    return asyncio.run(judge_all())


def make_study_settings(reason_first: bool = True) -> JudgeSettings:
    """Greedy, once, with an answer forced where none comes, which counts as not parsed."""
    return make_evaluation_settings(THINK_TOKENS, reason_first)


def grade_judgments(
    paper: EvaluationSet, judgments: Sequence[Judgment], taught: Collection[Calculation]
) -> EvaluationResults:
    """Grade judgments of a paper's questions, in their order."""
    n, k = len(paper.pointwise), len(paper.pairwise)
    pointwise, pairwise, swapped = judgments[:n], judgments[n : n + k], judgments[n + k :]
    apart = [i for i, question in enumerate(paper.pointwise) if mirror_sum(_extract_sum(question)) not in taught]
    same = [_is_same_verdict(one, other) for one, other in zip(pairwise, swapped, strict=True)]
    return EvaluationResults(
        compute_metrics(paper.pointwise, pointwise),
        compute_metrics([paper.pointwise[i] for i in apart], [pointwise[i] for i in apart]),
        compute_metrics(paper.pairwise + paper.swapped, judgments[n:]),
        sum(same) / k if k else None,
    )


def _extract_sum(question: HeldOutComparison) -> Calculation:
    return parse_question(str(question.comparison.prompt[0].content))


def _is_same_verdict(one: Judgment, swapped: Judgment) -> bool:
    """Whether a judgment of two answers, and one of the same in the other order, prefer the same or neither."""
    if one.scores is None or swapped.scores is None:
        return False
    first, second = one.preferred, swapped.preferred
    return first is second is None or (first is not None and second is not None and first == 1 - second)
