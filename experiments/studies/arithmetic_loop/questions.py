"""Which questions of the embedded task are asked where. The judge is trained on no sum that it is evaluated on."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flex_judge.alignment.policy_training.held_out import HELD_OUT_SEED as HELD_OUT_SEED
from flex_judge.alignment.tasks.arithmetic import ArithmeticQuestion, generate_questions
from flex_judge.alignment.tasks.synthetic_teacher import Calculation, parse_question

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


def make_evaluation_questions(count: int) -> list[ArithmeticQuestion]:
    """The judge's evaluation: the first of those that policies are measured on.

    Raises:
        UsageError: there are not so many.
    """
    return generate_questions(count, HELD_OUT_SEED, levels=LEVELS)


def make_training_questions(count: int, evaluation: Iterable[ArithmeticQuestion]) -> list[ArithmeticQuestion]:
    """Questions for the judge to learn on: none asks for a sum of the evaluation's or of the demo's, in whatever words.

    Raises:
        UsageError: there are not so many.
    """
    return _exclude_sums(
        count, TRAIN_SEED, collect_sums(evaluation) | collect_sums(generate_questions(DEMO, DEMO_SEED, levels=LEVELS))
    )


def make_policy_questions(count: int, held_out: Iterable[ArithmeticQuestion], seed: int) -> list[ArithmeticQuestion]:
    """Questions whose answers the policy is tuned on: none asks for a sum that it is measured on.

    Raises:
        UsageError: there are not so many.
    """
    return _exclude_sums(count, POLICY_SEED + seed, collect_sums(held_out))


def _exclude_sums(count: int, seed: int, kept: Collection[Calculation]) -> list[ArithmeticQuestion]:
    """The first questions of a seed that do not ask for any of these sums."""
    asked = 2 * count
    while True:
        free = [
            question
            for question in generate_questions(asked, seed, levels=LEVELS)
            if parse_question(question.text) not in kept
        ]
        if len(free) >= count:
            return free[:count]
        asked += count


def collect_sums(asked: Iterable[ArithmeticQuestion]) -> set[Calculation]:
    """What questions ask for: a story's sum is the same as a bare one's."""
    return {parse_question(question.text) for question in asked}


def mirror_sum(sum: Calculation) -> Calculation:
    """The same sum with its numbers exchanged; a difference is its own mirror, as it has none of the same result."""
    return sum if sum.sign == "-" else Calculation(sum.right, sum.sign, sum.left)


def exclude_related_sums(
    asked: Iterable[ArithmeticQuestion], taught: Collection[Calculation]
) -> list[ArithmeticQuestion]:
    """Questions whose sum is not taught the other way round either."""
    return [question for question in asked if mirror_sum(parse_question(question.text)) not in taught]
