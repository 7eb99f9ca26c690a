"""The prompts that a policy is measured on, before and after: none of them is trained on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from flex_judge.alignment.data.prompts import PromptColumns
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.alignment.policy_training.data import PolicyTrainingData, select_unseen_prompts
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.recipes import HELD_OUT_PROMPTS, TASK, PolicyRecipe

HELD_OUT_SEED = 1_000_003
"""Of the embedded task's questions that policies are measured on; runs that make data have small seeds."""
PROMPTS_PER_HELD_OUT = 10
"""Of the data's own prompts, at most one in so many is held out."""


@dataclass(frozen=True)
class HeldOutPrompts:
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
        told = [[row.id, compute_prompt_digest(row.prompt), dict(row.kept)] for row in self.rows]
        return hashlib.sha256(json.dumps([told, self.answer]).encode()).hexdigest()[:16]


def select_held_out(
    recipe: PolicyRecipe, data: PolicyTrainingData, seed: int
) -> tuple[HeldOutPrompts | None, frozenset[str]]:
    """The prompts to measure on, and the digests of those that are taken out of the data for it.

    Returns:
        None where none are wanted.

    Raises:
        UsageError: a row is no prompt, or all are trained on.
    """
    if recipe.held_out_prompts == 0:
        return None, frozenset()
    count = recipe.held_out_prompts or HELD_OUT_PROMPTS
    is_task = recipe.held_out == TASK or (recipe.held_out is None and data.is_task)
    tokens = recipe.held_out_tokens or (arithmetic.MAX_ANSWER_TOKENS if is_task else None)
    trained = frozenset(data.prompts)
    if is_task:
        # More than are needed, as some may have been trained on.
        questions = arithmetic.ArithmeticSource(min(2 * count + 100, 600), HELD_OUT_SEED)
        rows = select_unseen_prompts(questions, PromptColumns(number="answer"), trained, count)
        return HeldOutPrompts(tuple(rows), "answer", True, tokens), frozenset()
    if recipe.held_out is not None:
        answer = recipe.held_out_answer
        rows = select_unseen_prompts(
            open_source(recipe.held_out),
            PromptColumns.from_arguments(recipe.columns or (), number=answer),
            trained,
            count,
        )
        return HeldOutPrompts(tuple(rows), answer, False, tokens), frozenset()
    most = recipe.held_out_prompts or min(HELD_OUT_PROMPTS, max(1, len(trained) // PROMPTS_PER_HELD_OUT))
    taken = data.sample_rows(most, seed)
    return HeldOutPrompts(tuple(map(data.get_prompt, taken)), None, False, tokens), frozenset(
        data.prompts[i] for i in taken
    )
