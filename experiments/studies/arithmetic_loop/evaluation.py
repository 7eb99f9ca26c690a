"""Evaluation of the embedded judge: answers that the policy sampled to questions outside the training data."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.rows import Reference
from flex_judge.alignment.curation.task_rows import task_references
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.data.texts import normalised
from flex_judge.alignment.judge_training.evaluation import JudgeMetrics, Question, compute_metrics, settings
from flex_judge.alignment.tasks.arithmetic import is_right
from flex_judge.alignment.tasks.synthetic_teacher import RIGHT, WRONG, Sum, sum_of
from flex_judge.experiments.studies.arithmetic_loop.questions import mirrored
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
class Paper:
    """What is asked."""

    pointwise: tuple[Question, ...]
    """Each different answer by itself."""
    pairwise: tuple[Question, ...]
    """Two answers to a question, in the shares of `flex_judge.alignment.curation.task_rows.MIX`."""
    swapped: tuple[Question, ...]
    """The same pairs, the other answer first."""

    @classmethod
    def of(cls, samples: Path, pairwise: int = PAIRS, seed: int = 0) -> Paper:
        """The evaluation on a file of the policy's answers, see `samples.sample`."""
        rubric = load_rubric(RUBRIC)

        def question(id: str, text: str, answers: Sequence[str], scores: Sequence[float]) -> Question:
            comparison = Comparison.of(text, *answers, rubric=RUBRIC, id=id)
            return Question(comparison, tuple(scores), rubric.scale.middle)

        pointwise = []
        for row in read_rows(samples, ["id", "prompt", "responses", "kept"]):
            different = {normalised(answer): answer for answer in row["responses"] if answer.strip()}
            for k, answer in enumerate(different.values()):
                score = RIGHT if is_right(answer, row["kept"]["answer"]) else WRONG
                pointwise.append(question(f"{row['id']}/{k}", row["prompt"][0]["content"], [answer], [score]))
        found = [row for row in task_references(open_source(str(samples)), seed) if isinstance(row, Reference)][
            :pairwise
        ]
        return cls(
            tuple(pointwise),
            tuple(question(row.id, row.question, row.answers, row.scores) for row in found),
            tuple(question(f"{row.id} swapped", row.question, row.answers[::-1], row.scores[::-1]) for row in found),
        )

    @property
    def questions(self) -> tuple[Question, ...]:
        return self.pointwise + self.pairwise + self.swapped


@dataclass(frozen=True)
class Results:
    """Metrics of an evaluation."""

    pointwise: JudgeMetrics
    unrelated: JudgeMetrics
    """Of singles whose sum is not taught the other way round either."""
    pairwise: JudgeMetrics
    """In both orders."""
    swap_consistency: float | None
    """Pairs of which the other order gives the same verdict, of all pairs; those without a verdict are not."""

    @property
    def parsed(self) -> float:
        """Verdicts that the judge gave by itself, of all."""
        parts = [(g.parsed, g.asked) for g in (self.pointwise, self.pairwise) if g.parsed is not None]
        return sum(share * asked for share, asked in parts) / sum(asked for _, asked in parts)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "parsed": self.parsed}


def ask(judge: FlexJudge, paper: Paper, advance: Callable[[], object]) -> list[Judgment]:
    """A judge's judgments of a paper's questions, in their order.

    Args:
        judge: with the settings of `evaluation_settings`.
        advance: is called after each.
    """

    async def all_asked() -> list[Judgment]:
        found = {}
        async for judgment in judge.astream([question.comparison for question in paper.questions]):
            found[judgment.id] = judgment
            advance()
        return [found[question.comparison.id] for question in paper.questions]

    return asyncio.run(all_asked())


def evaluation_settings(reason_first: bool = True) -> JudgeSettings:
    """Greedy, once, with an answer forced where none comes, which counts as not parsed."""
    return settings(THINK_TOKENS, reason_first)


def evaluate_results(paper: Paper, judgments: Sequence[Judgment], taught: Collection[Sum]) -> Results:
    """Grade judgments of a paper's questions, in their order."""
    n, k = len(paper.pointwise), len(paper.pairwise)
    pointwise, pairwise, swapped = judgments[:n], judgments[n : n + k], judgments[n + k :]
    apart = [i for i, question in enumerate(paper.pointwise) if mirrored(_sum(question)) not in taught]
    same = [_same(one, other) for one, other in zip(pairwise, swapped, strict=True)]
    return Results(
        compute_metrics(paper.pointwise, pointwise),
        compute_metrics([paper.pointwise[i] for i in apart], [pointwise[i] for i in apart]),
        compute_metrics(paper.pairwise + paper.swapped, judgments[n:]),
        sum(same) / k if k else None,
    )


def _sum(question: Question) -> Sum:
    return sum_of(str(question.comparison.prompt[0].content))


def _same(one: Judgment, swapped: Judgment) -> bool:
    """Whether a judgment of two answers, and one of the same in the other order, prefer the same or neither."""
    if one.scores is None or swapped.scores is None:
        return False
    first, second = one.preferred, swapped.preferred
    return first is second is None or (first is not None and second is not None and first == 1 - second)
