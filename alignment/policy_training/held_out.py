"""The prompts that a policy is measured on, before and after: none of them is trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from flex_judge.alignment.data.prompts import Columns
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.data.texts import prompt_digest
from flex_judge.alignment.policy_training.data import Trained, other_prompts
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.recipes import HELD_OUT, TASK, Recipe

SEED = 1_000_003
"""Of the embedded task's questions that policies are measured on; runs that make data have small seeds."""
SHARE = 10
"""Of the data's own prompts, at most one in so many is held out."""


@dataclass(frozen=True)
class HeldOut:
    """Prompts, and what is known of their answers."""

    rows: tuple[PromptRow, ...]
    answer: str | None
    """The kept column with the number that is the right answer."""
    is_task: bool
    """Whether they are questions of the embedded task, whose answers are one line."""
    tokens: int | None
    """Longest answer; None for what is usual."""

    @property
    def digest(self) -> str:
        """Changes with the prompts and what is known of them."""
        told = [[row.id, prompt_digest(row.prompt), dict(row.kept)] for row in self.rows]
        return hashlib.sha256(json.dumps([told, self.answer]).encode()).hexdigest()[:16]


def held_out(recipe: Recipe, data: Trained, seed: int) -> tuple[HeldOut | None, frozenset[str]]:
    """The prompts to measure on, and the digests of those that are taken out of the data for it.

    Returns:
        None where none are wanted.

    Raises:
        UsageError: a row is no prompt, or all are trained on.
    """
    if recipe.held_out_prompts == 0:
        return None, frozenset()
    count = recipe.held_out_prompts or HELD_OUT
    is_task = recipe.held_out == TASK or (recipe.held_out is None and data.is_task)
    tokens = recipe.held_out_tokens or (arithmetic.TOKENS if is_task else None)
    trained = frozenset(data.prompts)
    if is_task:
        # More than are needed, as some may have been trained on.
        questions = arithmetic.Questions(min(2 * count + 100, 600), SEED)
        rows = other_prompts(questions, Columns(number="answer"), trained, count)
        return HeldOut(tuple(rows), "answer", True, tokens), frozenset()
    if recipe.held_out is not None:
        answer = recipe.held_out_answer
        rows = other_prompts(
            open_source(recipe.held_out), Columns.of(recipe.columns or (), number=answer), trained, count
        )
        return HeldOut(tuple(rows), answer, False, tokens), frozenset()
    most = recipe.held_out_prompts or min(HELD_OUT, max(1, len(trained) // SHARE))
    taken = data.some(most, seed)
    return HeldOut(tuple(map(data.prompt, taken)), None, False, tokens), frozenset(data.prompts[i] for i in taken)
