"""Preference data about molecules in the form that a molecular policy is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.prompts import MOLECULES, PromptColumns, parse_prompt_row
from flex_judge.alignment.data.rows import ANSWER_COLUMNS
from flex_judge.alignment.policy_training.data import PolicyTrainingData
from flex_judge.alignment.preferences.prompt_columns import make_prompt_columns
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.mol_llama.features import MoleculeFeatures, featurise_molecule
from flex_judge.judges.models.mol_llama.processor import expand_placeholders
from flex_judge.judges.models.mol_llama.tokens import MOLECULE_TOKEN

FEATURE_CACHE_SIZE = 4096
"""Number of molecules whose features stay in memory during training."""


def has_molecules(data: PolicyTrainingData) -> bool:
    """Check whether any row has molecules."""
    return MOLECULES in data.rows.column_names and any(data.rows[MOLECULES])


def expand_molecules(data: PolicyTrainingData, queries: int) -> PolicyTrainingData:
    """Expand the molecule placeholders in prompts to one token per embedding vector.

    Rows with a molecule token in an answer are dropped and reported in `problems`, because the model would look for a
    molecule that does not exist.

    Args:
        data: Conversations, with molecules in the column `molecules` or as message parts.
        queries: Number of embedding vectors per molecule.

    Raises:
        UsageError: A row has an invalid molecule or a different number of placeholders than molecules, or every row was
            dropped.
    """
    rows: list[dict[str, Any]] = []
    prompts: list[str] = []
    errors: list[str] = []
    problems: list[str] = []
    for number, row in enumerate(data.rows):
        where = f"{data.name}, row {number + 1}"
        try:
            prompt = _expand_prompt(row, queries, where)
        except UsageError as e:
            errors.append(str(e))
            continue
        sides = [
            side for side in ANSWER_COLUMNS if any(MOLECULE_TOKEN in _get_content(message) for message in row[side])
        ]
        if sides:
            problems.append(f"{where}, field {sides[0]!r}: has {MOLECULE_TOKEN} in an answer; the row is dropped")
            continue
        rows.append({**row, **prompt})
        prompts.append(data.prompts[number])
    if errors:
        more_rows = f" (and {len(errors) - 1} more rows)" if len(errors) > 1 else ""
        raise UsageError(f"{errors[0]}{more_rows}")
    if not rows:
        raise UsageError(problems[0])

    from datasets import Dataset

    return replace(data, rows=Dataset.from_list(rows), prompts=tuple(prompts), problems=(*data.problems, *problems))


def _expand_prompt(row: Mapping[str, Any], queries: int, where: str) -> dict[str, Any]:
    """Check the molecules of a row and expand their placeholders in the prompt."""
    prompt, molecules = row["prompt"], row.get(MOLECULES)
    if any(not isinstance(message.get("content"), str) for message in prompt):
        # Molecules as message parts become a text with placeholders and a list of SMILES strings.
        columns = {"prompt": prompt} if molecules is None else {"prompt": prompt, MOLECULES: molecules}
        parsed = parse_prompt_row(columns, where, 1, PromptColumns(), Path())
        columns = make_prompt_columns(parsed, molecules=True)
        prompt, molecules = columns["prompt"], columns[MOLECULES]
    molecules = list(molecules or ())
    for k, smiles in enumerate(molecules, 1):
        place = f"{where}, field {MOLECULES!r}, molecule {k}"
        if not isinstance(smiles, str):
            raise UsageError(f"{place}: expected a SMILES string, got {smiles!r}")
        try:
            get_features(smiles)
        except UsageError as e:
            raise UsageError(f"{place}: {e}") from e
    # The messages are joined, because molecules are numbered over the whole prompt.
    text = "\0".join(message["content"] for message in prompt)
    texts = expand_placeholders(text, len(molecules), queries, f"{where}, field 'prompt'").split("\0")
    messages = [{**dict(message), "content": content} for message, content in zip(prompt, texts, strict=True)]
    return {"prompt": messages, MOLECULES: molecules}


def _get_content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content)


@lru_cache(maxsize=FEATURE_CACHE_SIZE)
def get_features(smiles: str) -> MoleculeFeatures:
    """Compute the features of a molecule, or return them from the cache."""
    return featurise_molecule(smiles)
