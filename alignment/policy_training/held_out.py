"""Held-out prompts: the prompts that a policy is evaluated on before and after training."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from flex_judge.alignment.data.prompts import FIELDS, PromptColumns
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.data.texts import compute_prompt_digest
from flex_judge.alignment.policy_training.data import PolicyTrainingData, select_unseen_prompts
from flex_judge.alignment.tasks import arithmetic
from flex_judge.alignment.training.recipes import HELD_OUT_PROMPTS, TASK, PolicyRecipe

HELD_OUT_SEED = 1_000_003
"""Seed of the embedded task's held-out questions, far from the small seeds of data runs."""
PROMPTS_PER_HELD_OUT = 10
"""Minimum number of training prompts per held-out prompt, if the prompts are taken from the training data."""


@dataclass(frozen=True)
class HeldOutPrompts:
    """Held-out prompts, with the column of their right answers and the answer length."""

    rows: tuple[PromptRow, ...]
    answer: str | None
    """Kept column with the right answer as a number; None if it is unknown."""
    is_task: bool
    """Whether the prompts are questions of the embedded task, which have one-line answers."""
    tokens: int | None
    """Maximum answer length in tokens; None for the default."""

    @property
    def digest(self) -> str:
        """Digest of the prompts and of their right answers."""
        rows = [[row.id, compute_prompt_digest(row.prompt), dict(row.kept)] for row in self.rows]
        return hashlib.sha256(json.dumps([rows, self.answer]).encode()).hexdigest()[:16]


def select_held_out(
    recipe: PolicyRecipe, data: PolicyTrainingData, seed: int
) -> tuple[HeldOutPrompts | None, frozenset[str]]:
    """Select the held-out prompts of a training run.

    They come from the embedded task, from a file, or from the training data, depending on the recipe.

    Args:
        recipe: Settings of the run.
        data: Training data.
        seed: Seed for prompts that are taken from the training data.

    Returns:
        The prompts, or None if the recipe asks for none; and the digests of the prompts to exclude from the training
        data.

    Raises:
        UsageError: A row has no valid prompt, or every prompt is trained on.
    """
    if recipe.held_out_prompts == 0:
        return None, frozenset()
    count = recipe.held_out_prompts or HELD_OUT_PROMPTS
    is_task = recipe.held_out == TASK or (recipe.held_out is None and data.is_task)
    tokens = recipe.held_out_tokens or (arithmetic.MAX_ANSWER_TOKENS if is_task else None)
    trained = frozenset(data.prompts)
    if is_task:
        # Twice the number and 100 more, because some of the questions may be trained on.
        source = arithmetic.ArithmeticSource(min(2 * count + 100, 600), HELD_OUT_SEED)
        rows = select_unseen_prompts(source, PromptColumns(number="answer"), trained, count)
        return HeldOutPrompts(tuple(rows), "answer", True, tokens), frozenset()
    if recipe.held_out is not None:
        answer = recipe.held_out_answer
        # The answers of preference data are no part of a prompt.
        mapping = [text for text in recipe.column or () if text.partition("=")[0] in FIELDS]
        columns, prompts = PromptColumns.from_arguments(mapping, number=answer), open_source(recipe.held_out)
        columns.check_columns(prompts)
        rows = select_unseen_prompts(prompts, columns, trained, count)
        return HeldOutPrompts(tuple(rows), answer, False, tokens), frozenset()
    default_count = min(HELD_OUT_PROMPTS, max(1, len(trained) // PROMPTS_PER_HELD_OUT))
    indices = data.sample_rows(recipe.held_out_prompts or default_count, seed)
    excluded = frozenset(data.prompts[i] for i in indices)
    return HeldOutPrompts(tuple(map(data.get_prompt, indices)), None, False, tokens), excluded
