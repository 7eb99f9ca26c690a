"""Verifiable arithmetic: the embedded task. Questions with known answers, in several kinds and levels.

The answer is used to measure; no judge ever sees it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Message

INSTRUCTION = "Write the equation and its result."
STOP = ("\n",)
"""An answer is one line; what small models write after it is noise."""
MAX_ANSWER_TOKENS = 40
"""Longest answer."""
SAMPLING = Sampling(max_tokens=MAX_ANSWER_TOKENS, temperature=0.7, top_p=0.95, stop=STOP)
"""How a policy answers."""


@dataclass(frozen=True)
class ArithmeticQuestion:
    id: str
    text: str
    answer: int
    kind: str
    """A name in KINDS."""
    level: int
    """1 is the easiest."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The question with the request for a short answer that small models follow best."""
        return (Message("user", f"{self.text} {INSTRUCTION}"),)

    def is_correct(self, response: str) -> bool:
        """Whether the last number that the response writes is the answer."""
        return is_correct_answer(response, self.answer)


def is_correct_answer(response: str, answer: float) -> bool:
    """Whether the last number that a response writes is the answer."""
    return find_last_number(response) == answer


_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?")


def find_last_number(text: str) -> float | None:
    """The last number in a text; None if there is none. Thousands separators are allowed."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _sample_operand(rng: random.Random, level: int) -> int:
    """Level 1 has one digit, level 2 numbers to 20, level 3 two digits."""
    return rng.randint(*((2, 9), (5, 20), (11, 99))[level - 1])


def _make_addition(rng: random.Random, level: int) -> tuple[str, int]:
    a, b = _sample_operand(rng, level), _sample_operand(rng, level)
    return f"What is {a} + {b}?", a + b


def _make_subtraction(rng: random.Random, level: int) -> tuple[str, int]:
    b, a = sorted((_sample_operand(rng, level), _sample_operand(rng, level)))
    return f"What is {a} - {b}?", a - b


def _make_multiplication(rng: random.Random, level: int) -> tuple[str, int]:
    a, b = rng.randint(2, 9), _sample_operand(rng, level)
    return f"What is {a} * {b}?", a * b


def _make_story(rng: random.Random, level: int) -> tuple[str, int]:
    name, thing = rng.choice(("Ana", "Ben", "Chen", "Dora", "Emil")), rng.choice(("apples", "books", "coins", "shells"))
    a, b = _sample_operand(rng, level), _sample_operand(rng, level)
    return f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?", a + b


KINDS: dict[str, Callable[[random.Random, int], tuple[str, int]]] = {
    "addition": _make_addition,
    "subtraction": _make_subtraction,
    "multiplication": _make_multiplication,
    "story": _make_story,
}
LEVELS = (1, 2, 3)
MAX_REPEATS = 2000
"""A kind and level that gives only known questions so many times in a row is taken to have no more."""


def generate_questions(
    count: int, seed: int = 0, kinds: Sequence[str] = tuple(KINDS), levels: Sequence[int] = LEVELS
) -> list[ArithmeticQuestion]:
    """`count` different questions, kinds and levels in turn. The same arguments give the same questions, and a larger
    count only adds to them.

    Raises:
        UsageError: an unknown kind or level, or more questions than there are.
    """
    for value, known in [*((k, KINDS) for k in kinds), *((v, LEVELS) for v in levels)]:
        if value not in known:
            raise UsageError(f"arithmetic: {value!r} is none of {', '.join(map(str, known))}")
    rng = random.Random(f"arithmetic-{seed}")
    cells = [(kind, level) for level in levels for kind in kinds]
    found: dict[str, ArithmeticQuestion] = {}
    turn = repeats = 0
    while len(found) < count:
        if not cells:
            raise UsageError(f"arithmetic: kinds and levels give only {len(found)} different questions, not {count}")
        kind, level = cells[turn % len(cells)]
        text, answer = KINDS[kind](rng, level)
        if text not in found:
            found[text] = ArithmeticQuestion(f"arithmetic-{seed}-{len(found)}", text, answer, kind, level)
            turn, repeats = turn + 1, 0
        elif (repeats := repeats + 1) > MAX_REPEATS:
            cells.remove((kind, level))
            repeats = 0
    return list(found.values())


@dataclass(frozen=True)
class ArithmeticSource:
    """The task as a source of prompts, see `flex_judge.alignment.data.sources`."""

    count: int
    seed: int = 0
    levels: tuple[int, ...] = (1, 2)
    folder: Path = Path()
    """There are no media."""

    @property
    def name(self) -> str:
        return "arithmetic"

    @property
    def digest(self) -> str:
        """Stands for the questions, which follow from it."""
        return f"arithmetic-{self.count}-{self.seed}-{self.levels}"

    def __len__(self) -> int:
        return self.count

    def read_range(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, question in enumerate(self._list_questions()[start:stop], start + 1):
            prompt = [{"role": m.role, "content": m.content} for m in question.prompt]
            yield f"arithmetic, question {number}", {"id": question.id, "prompt": prompt, "answer": question.answer}

    def _list_questions(self) -> list[ArithmeticQuestion]:
        return _generate_questions_once(self.count, self.seed, self.levels)


@lru_cache(maxsize=2)
def _generate_questions_once(count: int, seed: int, levels: tuple[int, ...]) -> list[ArithmeticQuestion]:
    return generate_questions(count, seed, levels=levels)
