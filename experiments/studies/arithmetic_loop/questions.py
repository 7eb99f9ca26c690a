"""Which questions of the embedded task are asked where. The judge is trained on no sum that it is evaluated on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flex_judge.alignment.policy_training.held_out import SEED as HELD_OUT_SEED
from flex_judge.alignment.tasks.arithmetic import Question, questions
from flex_judge.alignment.tasks.synthetic_teacher import Sum, sum_of

EVALUATION, TRAIN = 120, 520
"""How many questions the shipped judge was evaluated on, and learnt on."""
LEVELS = (1, 2)
"""Those of the demo and of data runs."""
DEMO, DEMO_SEED = 24, 0
"""The demo's own questions, which are not trained on either."""
TRAIN_SEED = 2_000_003
"""Of the questions that the judge is trained on; runs that make data have small seeds."""
POLICY_SEED = 3_000_003
"""Of those that the policy is tuned on, to which the seed of the run is added."""


def evaluation_questions(count: int) -> list[Question]:
    """The judge's evaluation: the first of those that policies are measured on.

    Raises:
        UsageError: there are not so many.
    """
    return questions(count, HELD_OUT_SEED, levels=LEVELS)


def training_questions(count: int, evaluation: Iterable[Question]) -> list[Question]:
    """Questions for the judge to learn on: none asks for a sum of the evaluation's or of the demo's, in whatever words.

    Raises:
        UsageError: there are not so many.
    """
    return _without(count, TRAIN_SEED, sums(evaluation) | sums(questions(DEMO, DEMO_SEED, levels=LEVELS)))


def policy_questions(count: int, held_out: Iterable[Question], seed: int) -> list[Question]:
    """Questions whose answers the policy is tuned on: none asks for a sum that it is measured on.

    Raises:
        UsageError: there are not so many.
    """
    return _without(count, POLICY_SEED + seed, sums(held_out))


def _without(count: int, seed: int, kept: Collection[Sum]) -> list[Question]:
    """The first questions of a seed that do not ask for any of these sums."""
    asked = 2 * count
    while True:
        free = [question for question in questions(asked, seed, levels=LEVELS) if sum_of(question.text) not in kept]
        if len(free) >= count:
            return free[:count]
        asked += count


def sums(asked: Iterable[Question]) -> set[Sum]:
    """What questions ask for: a story's sum is the same as a bare one's."""
    return {sum_of(question.text) for question in asked}


def mirrored(sum: Sum) -> Sum:
    """The same sum with its numbers exchanged; a difference is its own mirror, as it has none of the same result."""
    return sum if sum.sign == "-" else Sum(sum.right, sum.sign, sum.left)


def unrelated(asked: Iterable[Question], taught: Collection[Sum]) -> list[Question]:
    """Questions whose sum is not taught the other way round either."""
    return [question for question in asked if mirrored(sum_of(question.text)) not in taught]
