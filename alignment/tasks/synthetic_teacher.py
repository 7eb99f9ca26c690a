"""A teacher for the embedded task: a program, not a model, that writes correct step-by-step judgments of answers.

What it writes is synthetic. It works the question out itself, from its words, reads the last number of each answer, and
compares: the same reading that measures the task (`arithmetic.is_right`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from flex_judge.alignment.tasks.arithmetic import find_last_number
from flex_judge.judges.errors import UsageError

TEACHER_NAME = "arithmetic-teacher"
"""What data cards and rows call it. It is no model."""
RIGHT_SCORE, WRONG_SCORE = 5, 1
"""The scores it gives, of 1 to 5."""


@dataclass(frozen=True)
class Calculation:
    """What a question asks for: two whole numbers, and what is done with them."""

    left: int
    sign: str
    """`+`, `-` or `*`."""
    right: int

    @property
    def result(self) -> int:
        return {"+": self.left + self.right, "-": self.left - self.right, "*": self.left * self.right}[self.sign]

    def write_steps(self) -> str:
        """The calculation in steps that a small model can take: it knows by heart what two digits come to, so tens and
        ones are written apart before they are put together."""
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
        apart = tens - (right - right % 10), ones - right % 10
        return [f"{tens} - {right - right % 10} + {ones} - {right % 10}", f"{apart[0]} + {apart[1]}"]

    def _list_multiplication_steps(self) -> list[str]:
        left, ones = self.left, self.right % 10
        if self.right < 10:
            return []
        tens = self.right - ones
        return [f"{left} * {tens} + {left} * {ones}", f"{left * tens} + {left * ones}"]


_SUM = re.compile(r"What is (\d+) ([-+*]) (\d+)\?")
_STORY = re.compile(r"has (\d+) \w+ and gets (\d+) more\.")


def parse_question(question: str) -> Calculation:
    """What a question of the embedded task asks for.

    Raises:
        UsageError: it is none of that task's.
    """
    if found := _SUM.search(question):
        return Calculation(int(found[1]), found[2], int(found[3]))
    if found := _STORY.search(question):
        return Calculation(int(found[1]), "+", int(found[2]))
    raise UsageError(f"{TEACHER_NAME} knows only questions of the embedded task, not {question[:60]!r}")


def judge_answers(question: str, answers: Sequence[str], in_steps: bool = True) -> tuple[str, tuple[int, ...]]:
    """Its judgment of one or more answers: the reasoning, and a score each.

    Args:
        in_steps: whether the reasoning shows how the result is come by.

    Raises:
        UsageError: the question is none of the embedded task's.
    """
    asked = parse_question(question)
    result = asked.result
    names = ["The assistant"] if len(answers) == 1 else [f"Assistant {k}" for k in range(1, len(answers) + 1)]
    found = [_judge_answer(name, answer, result) for name, answer in zip(names, answers, strict=True)]
    begun = asked.write_steps() if in_steps else f"{asked.left} {asked.sign} {asked.right} = {result}."
    return " ".join([begun, *(said for said, _ in found)]), tuple(score for _, score in found)


def _judge_answer(name: str, answer: str, result: int) -> tuple[str, int]:
    """What the number that an answer says is worth. The two numbers stand side by side, and the score is said before it
    is given: a model of this size learns to look back a few words, not further."""
    number = find_last_number(answer)
    if number is None:
        return f"{name} said no number: wrong, so {WRONG_SCORE}.", WRONG_SCORE
    told = f"{name} said {number:.15g}, result {result}"
    if number == result:
        return f"{told}: same, right, so {RIGHT_SCORE}.", RIGHT_SCORE
    return f"{told}: different, wrong, so {WRONG_SCORE}.", WRONG_SCORE
