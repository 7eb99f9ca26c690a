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

ASK = "Write the equation and its result."
STOP = ("\n",)
"""An answer is one line; what small models write after it is noise."""
TOKENS = 40
"""Longest answer."""
SAMPLING = Sampling(max_tokens=TOKENS, temperature=0.7, top_p=0.95, stop=STOP)
"""How a policy answers."""


@dataclass(frozen=True)
class Question:
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
        return (Message("user", f"{self.text} {ASK}"),)

    def is_right(self, response: str) -> bool:
        """Whether the last number that the response writes is the answer."""
        return is_right(response, self.answer)


def is_right(response: str, answer: float) -> bool:
    """Whether the last number that a response writes is the answer."""
    return last_number(response) == answer


_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?")


def last_number(text: str) -> float | None:
    """The last number in a text; None if there is none. Thousands separators are allowed."""
    numbers = _NUMBER.findall(text)
    return float(numbers[-1].replace(",", "")) if numbers else None


def _operand(rng: random.Random, level: int) -> int:
    """Level 1 has one digit, level 2 numbers to 20, level 3 two digits."""
    return rng.randint(*((2, 9), (5, 20), (11, 99))[level - 1])


def _addition(rng: random.Random, level: int) -> tuple[str, int]:
    a, b = _operand(rng, level), _operand(rng, level)
    return f"What is {a} + {b}?", a + b


def _subtraction(rng: random.Random, level: int) -> tuple[str, int]:
    b, a = sorted((_operand(rng, level), _operand(rng, level)))
    return f"What is {a} - {b}?", a - b


def _multiplication(rng: random.Random, level: int) -> tuple[str, int]:
    a, b = rng.randint(2, 9), _operand(rng, level)
    return f"What is {a} * {b}?", a * b


def _story(rng: random.Random, level: int) -> tuple[str, int]:
    name, thing = rng.choice(("Ana", "Ben", "Chen", "Dora", "Emil")), rng.choice(("apples", "books", "coins", "shells"))
    a, b = _operand(rng, level), _operand(rng, level)
    return f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?", a + b


KINDS: dict[str, Callable[[random.Random, int], tuple[str, int]]] = {
    "addition": _addition,
    "subtraction": _subtraction,
    "multiplication": _multiplication,
    "story": _story,
}
LEVELS = (1, 2, 3)
EXHAUSTED = 2000
"""A kind and level that gives only known questions so many times in a row is taken to have no more."""


def questions(
    count: int, seed: int = 0, kinds: Sequence[str] = tuple(KINDS), levels: Sequence[int] = LEVELS
) -> list[Question]:
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
    found: dict[str, Question] = {}
    turn = repeats = 0
    while len(found) < count:
        if not cells:
            raise UsageError(f"arithmetic: kinds and levels give only {len(found)} different questions, not {count}")
        kind, level = cells[turn % len(cells)]
        text, answer = KINDS[kind](rng, level)
        if text not in found:
            found[text] = Question(f"arithmetic-{seed}-{len(found)}", text, answer, kind, level)
            turn, repeats = turn + 1, 0
        elif (repeats := repeats + 1) > EXHAUSTED:
            cells.remove((kind, level))
            repeats = 0
    return list(found.values())


@dataclass(frozen=True)
class Questions:
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

    def rows(self, start: int, stop: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, question in enumerate(self._all()[start:stop], start + 1):
            prompt = [{"role": m.role, "content": m.content} for m in question.prompt]
            yield f"arithmetic, question {number}", {"id": question.id, "prompt": prompt, "answer": question.answer}

    def _all(self) -> list[Question]:
        return _made(self.count, self.seed, self.levels)


@lru_cache(maxsize=2)
def _made(count: int, seed: int, levels: tuple[int, ...]) -> list[Question]:
    return questions(count, seed, levels=levels)
