"""Synthetic teacher for the embedded task: a program that writes correct step-by-step judgments of answers.

It computes the result from the text of the question and compares it with the final number of each answer, which is also
how the task is measured (`arithmetic.is_correct_answer`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flex_judge.alignment.data.numbers import format_number
from flex_judge.alignment.tasks.arithmetic import find_last_number
from flex_judge.judges.errors import UsageError

TEACHER_NAME = "arithmetic-teacher"
"""Name of the teacher in data cards and rows. It is a program, not a model."""
RIGHT_SCORE, WRONG_SCORE = 5, 1
"""Scores of correct and wrong answers, on the scale 1-5."""


@dataclass(frozen=True)
class Calculation:
    """Calculation of a question: two integers and an operator."""

    left: int
    """Left operand."""
    sign: str
    """Operator: `+`, `-` or `*`."""
    right: int
    """Right operand."""

    @property
    def result(self) -> int:
        """Correct result."""
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.sign]

    def write_steps(self) -> str:
        """Write the calculation in steps that a small model can follow.

        Small models memorise results of single digits, so tens and ones are calculated separately and then combined.
        """
        steps = {
            "+": self._list_addition_steps,
            "-": self._list_subtraction_steps,
            "*": self._list_multiplication_steps,
        }[self.sign]()
        return " = ".join([f"{self.left} {self.sign} {self.right}", *steps, str(self.result)]) + "."

    def _list_addition_steps(self) -> list[str]:
        numbers = (self.left, self.right)
        tens, ones = [n - n % 10 for n in numbers if n >= 10], [n % 10 for n in numbers]
        if not tens:
            return []
        return [" + ".join(map(str, tens + ones)), f"{sum(tens)} + {sum(ones)}"]

    def _list_subtraction_steps(self) -> list[str]:
        left, right = self.left, self.right
        tens, ones = left - left % 10, left % 10
        if left < 10:
            return []
        if right < 10 and ones >= right:  # 18 - 6 = 10 + 8 - 6 = 10 + 2
            return [f"{tens} + {ones} - {right}", f"{tens} + {ones - right}"]
        if right < 10:  # 16 - 9 = 6 + 10 - 9 = 6 + 1
            return [f"{left - 10} + 10 - {right}", f"{left - 10} + {10 - right}"]
        if left <= 20:  # 17 - 12 = 7 - 2
            return [f"{left - 10} - {right - 10}"]
        if ones < right % 10:  # 84 - 37 = 70 - 30 + 14 - 7 = 40 + 7
            tens, ones = tens - 10, ones + 10
        right_tens, right_ones = right - right % 10, right % 10
        return [f"{tens} - {right_tens} + {ones} - {right_ones}", f"{tens - right_tens} + {ones - right_ones}"]

    def _list_multiplication_steps(self) -> list[str]:
        left, ones = self.left, self.right % 10
        if self.right < 10:
            return []
        tens = self.right - ones
        return [f"{left} * {tens} + {left} * {ones}", f"{left * tens} + {left * ones}"]


_SUM = re.compile(r"What is (\d+) ([-+*]) (\d+)\?")
_STORY = re.compile(r"has (\d+) \w+ and gets (\d+) more\.")


def parse_question(question: str) -> Calculation:
    """Parse the calculation from the text of a question.

    Raises:
        UsageError: the question is not from the embedded task.
    """
    if match := _SUM.search(question):
        return Calculation(int(match[1]), match[2], int(match[3]))
    if match := _STORY.search(question):
        return Calculation(int(match[1]), "+", int(match[2]))
    raise UsageError(f"{TEACHER_NAME} supports only questions of the embedded task, got {question[:60]!r}")


def judge_answers(question: str, answers: Sequence[str], in_steps: bool = True) -> tuple[str, tuple[int, ...]]:
    """Judge one or more answers to a question.

    Args:
        question: text of a question of the embedded task.
        answers: the answers to judge.
        in_steps: whether the reasoning shows intermediate steps of the calculation.

    Returns:
        The reasoning, and one score per answer.

    Raises:
        UsageError: the question is not from the embedded task.
    """
    calculation = parse_question(question)
    if in_steps:
        sentences = [calculation.write_steps()]
    else:
        sentences = [f"{calculation.left} {calculation.sign} {calculation.right} = {calculation.result}."]
    scores = []
    for number, answer in enumerate(answers, 1):
        name = "The assistant" if len(answers) == 1 else f"Assistant {number}"
        sentence, score = _judge_answer(name, answer, calculation.result)
        sentences.append(sentence)
        scores.append(score)
    return " ".join(sentences), tuple(scores)


def _judge_answer(name: str, answer: str, result: int) -> tuple[str, int]:
    """Write a sentence about one answer, and return it with the score.

    The sentence repeats the result next to the answer's number and ends with the score, because a model of this size
    learns to attend to the last few words only.
    """
    number = find_last_number(answer)
    if number is None:
        return f"{name} said no number: wrong, so {WRONG_SCORE}.", WRONG_SCORE
    comparison = f"{name} said {format_number(number)}, result {result}"
    if number == result:
        return f"{comparison}: same, right, so {RIGHT_SCORE}.", RIGHT_SCORE
    return f"{comparison}: different, wrong, so {WRONG_SCORE}.", WRONG_SCORE
