"""Embedded task: arithmetic questions with known answers, in several kinds and difficulty levels.

Answers are used for measurement only; no judge ever sees them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.numbers import find_final_number, is_same_number, read_number
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.json_rows import NeedsColumn, need_all
from flex_judge.judges.types import Message

INSTRUCTION = "Write the equation and its result."
"""Text that follows every question."""
STOP = ("\n",)
"""Stop strings. An answer is one line; small models write noise after it."""
MAX_ANSWER_TOKENS = 40
"""Maximum length of an answer in tokens."""
SAMPLING = Sampling(max_tokens=MAX_ANSWER_TOKENS, temperature=0.7, top_p=0.95, stop=STOP)
"""Sampling of a policy's answers."""


@dataclass(frozen=True)
class ArithmeticQuestion:
    """Arithmetic question with its correct answer."""

    id: str
    """Unique id, `arithmetic-SEED-NUMBER`."""
    text: str
    """Text of the question, without the instruction."""
    answer: int
    """Correct answer."""
    kind: str
    """Key of KINDS."""
    level: int
    """Difficulty from LEVELS; 1 is the easiest."""

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The question with the instruction that small models follow best."""
        return (Message("user", f"{self.text} {INSTRUCTION}"),)


def is_correct_answer(response: str, answer: Any) -> bool:
    """Return whether the number that a response gives as its answer is the right one.

    Args:
        response: the response, see `find_final_number`.
        answer: the right answer: a number, or its text as in a column of a data set.

    Raises:
        UsageError: the right answer is not a number.
    """
    number = find_final_number(response)
    right = _read_answer(answer) if isinstance(answer, Hashable) else read_number(answer)
    return number is not None and is_same_number(number, right)


# The same answer is compared with every sample of its prompt.
_read_answer = lru_cache(maxsize=1024, typed=True)(read_number)


def find_last_number(text: str) -> Fraction | None:
    """Return the number that a text gives as its answer, without its percent sign; None without one."""
    number = find_final_number(text)
    return None if number is None else number.value


def _sample_operand(rng: random.Random, level: int) -> int:
    """Sample an operand: one digit on level 1, up to 20 on level 2, two digits on level 3."""
    return rng.randint(*((2, 9), (5, 20), (11, 99))[level - 1])


def _make_addition(rng: random.Random, level: int) -> tuple[str, int]:
    a, b = _sample_operand(rng, level), _sample_operand(rng, level)
    return f"What is {a} + {b}?", a + b


def _make_subtraction(rng: random.Random, level: int) -> tuple[str, int]:
    b, a = sorted((_sample_operand(rng, level), _sample_operand(rng, level)))  # No answer is negative.
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
"""Kind of question -> function that generates text and answer for a level."""
LEVELS = (1, 2, 3)
MAX_REPEATS = 2000
"""A kind and level that repeats earlier questions this many times in a row counts as exhausted."""


def _check_values(name: str, values: Iterable[object], known: Collection[object]) -> None:
    """Raise UsageError for a value that does not exist."""
    for value in values:
        if value not in known:
            raise UsageError(f"arithmetic: unknown {name} {value!r}; choose from {', '.join(map(str, known))}")


def generate_questions(
    count: int, seed: int = 0, kinds: Sequence[str] = tuple(KINDS), levels: Sequence[int] = LEVELS
) -> list[ArithmeticQuestion]:
    """Generate distinct questions, cycling through kinds and levels.

    The result is reproducible, and a larger count only adds questions at the end.

    Args:
        count: number of questions.
        seed: random seed.
        kinds: keys of KINDS to use.
        levels: levels to use.

    Raises:
        UsageError: a kind or level does not exist, or there are fewer distinct questions than requested.
    """
    _check_values("kind", kinds, KINDS)
    _check_values("level", levels, LEVELS)
    rng = random.Random(f"arithmetic-{seed}")
    # All kinds and levels take turns, so that the beginning of the list has the same mixture as the whole.
    cells = [(kind, level) for level in levels for kind in kinds]
    questions: dict[str, ArithmeticQuestion] = {}
    turn = repeats = 0
    while len(questions) < count:
        if not cells:
            raise UsageError(f"arithmetic: there are only {len(questions)} different questions, not {count}")
        kind, level = cells[turn % len(cells)]
        text, answer = KINDS[kind](rng, level)
        if text not in questions:
            name = f"arithmetic-{seed}-{len(questions)}"
            questions[text] = ArithmeticQuestion(name, text, answer, kind=kind, level=level)
            turn, repeats = turn + 1, 0
            continue
        repeats += 1
        if repeats > MAX_REPEATS:
            cells.remove((kind, level))
            repeats = 0
    return list(questions.values())


@dataclass(frozen=True)
class ArithmeticSource:
    """Source of prompts with arithmetic questions, see `flex_judge.alignment.data.sources.Source`."""

    count: int
    """Number of questions."""
    seed: int = 0
    """Random seed of the questions."""
    levels: tuple[int, ...] = (1, 2)
    """Difficulty levels."""
    folder: Path = Path()
    """Folder of media; unused, because the questions have none."""

    @property
    def name(self) -> str:
        """Name for messages."""
        return "arithmetic"

    @property
    def digest(self) -> str:
        """Identifier of the questions. It lists the arguments that determine them."""
        return f"arithmetic-{self.count}-{self.seed}-{self.levels}"

    def __len__(self) -> int:
        return self.count

    def read_range(
        self,
        start: int,
        stop: int,
        needs: NeedsColumn = need_all,  # noqa: ARG002 - all columns are short
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield rows `start` to `stop` (exclusive), each with its location for messages."""
        questions = _generate_questions_once(self.count, self.seed, self.levels)
        for number, question in enumerate(questions[start:stop], start + 1):
            prompt = [{"role": message.role, "content": message.content} for message in question.prompt]
            yield f"arithmetic, question {number}", {"id": question.id, "prompt": prompt, "answer": question.answer}


@lru_cache(maxsize=2)
def _generate_questions_once(count: int, seed: int, levels: tuple[int, ...]) -> list[ArithmeticQuestion]:
    return generate_questions(count, seed, levels=levels)
