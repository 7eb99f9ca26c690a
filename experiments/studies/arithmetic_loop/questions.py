"""Questions of the study. The judge is never evaluated on a calculation that it was trained on, in whatever wording."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from flex_judge.alignment.policy_training.held_out import HELD_OUT_SEED
from flex_judge.alignment.tasks.arithmetic import ArithmeticQuestion, generate_questions
from flex_judge.alignment.tasks.synthetic_teacher import Calculation, parse_question

EVALUATION, TRAIN = 120, 520
"""Number of questions that the shipped judge was evaluated on, and trained on."""
LEVELS = (1, 2)
"""Difficulty levels, the same as in the demo and in data runs."""
DEMO, DEMO_SEED = 24, 0
"""Number and seed of the demo's questions. The judge is not trained on them either."""
TRAIN_SEED = 2_000_003
"""Seed of the judge's training questions, far from the small seeds of data runs."""
POLICY_SEED = 3_000_003
"""Seed of the policy's training questions, to which the seed of the run is added."""


def make_evaluation_questions(count: int) -> list[ArithmeticQuestion]:
    """Make the evaluation questions of the judge: the first held-out questions of policies.

    Raises:
        UsageError: The task does not have that many questions.
    """
    return generate_questions(count, HELD_OUT_SEED, levels=LEVELS)


def make_training_questions(count: int, evaluation: Iterable[ArithmeticQuestion]) -> list[ArithmeticQuestion]:
    """Make the training questions of the judge, without calculations of the evaluation or of the demo.

    Raises:
        UsageError: The task does not have that many questions.
    """
    demo = generate_questions(DEMO, DEMO_SEED, levels=LEVELS)
    return _exclude_calculations(count, TRAIN_SEED, collect_calculations(evaluation) | collect_calculations(demo))


def make_policy_questions(count: int, held_out: Iterable[ArithmeticQuestion], seed: int) -> list[ArithmeticQuestion]:
    """Make the training questions of the policy, without calculations of its held-out questions.

    Raises:
        UsageError: The task does not have that many questions.
    """
    return _exclude_calculations(count, POLICY_SEED + seed, collect_calculations(held_out))


def _exclude_calculations(count: int, seed: int, excluded: Collection[Calculation]) -> list[ArithmeticQuestion]:
    """Make the first questions of a seed whose calculation is not excluded."""
    total = 2 * count
    while True:
        questions = generate_questions(total, seed, levels=LEVELS)
        remaining = [question for question in questions if parse_question(question.text) not in excluded]
        if len(remaining) >= count:
            return remaining[:count]
        total += count


def collect_calculations(questions: Iterable[ArithmeticQuestion]) -> set[Calculation]:
    """Collect the calculations of questions. A word problem has the same calculation as the plain question."""
    return {parse_question(question.text) for question in questions}


def mirror_calculation(calculation: Calculation) -> Calculation:
    """Swap the operands of an addition or multiplication.

    A subtraction is returned unchanged, because swapping its operands changes the result.
    """
    if calculation.sign == "-":
        return calculation
    return Calculation(calculation.right, calculation.sign, calculation.left)
