"""Preferences about molecules as a policy that sees them is trained on: checked, with their places in the prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.prompts import MOLECULES, PromptColumns, parse_prompt_row
from flex_judge.alignment.policy_training.data import ANSWER_COLUMNS, PolicyTrainingData
from flex_judge.alignment.preferences.formats import make_prompt_columns
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.mol_llama.features import MoleculeFeatures, featurise_molecule
from flex_judge.judges.models.mol_llama.processor import expand_placeholders
from flex_judge.judges.models.mol_llama.tokens import MOLECULE_TOKEN

FEATURE_CACHE_SIZE = 4096
"""Molecules whose features are kept while a policy is trained."""


def has_molecules(data: PolicyTrainingData) -> bool:
    """Whether a row has any."""
    return MOLECULES in data.rows.column_names and any(data.rows[MOLECULES])


def expand_molecules(data: PolicyTrainingData, queries: int) -> PolicyTrainingData:
    """Preferences whose prompts are text with as many tokens in the place of a molecule as it takes vectors. Rows with
    such a token in an answer, where it would be a molecule that is not there, are left out and told of.

    Args:
        data: conversations; molecules in a column `molecules`, or as parts of messages.
        queries: vectors of a molecule.

    Raises:
        UsageError: a row has another number of places than molecules, or a molecule that cannot be shown. It says
            which row. Or no row is left.
    """
    kept: list[dict[str, Any]] = []
    numbers: list[int] = []
    wrong: list[str] = []
    spoilt: list[str] = []
    for number, row in enumerate(data.rows):
        where = f"{data.name}, row {number + 1}"
        try:
            asked = _expand_prompt(row, queries, where)
        except UsageError as e:
            wrong.append(str(e))
            continue
        sides = [
            side for side in ANSWER_COLUMNS if any(MOLECULE_TOKEN in _get_content(message) for message in row[side])
        ]
        if sides:
            spoilt.append(f"{where}, field {sides[0]!r}: has {MOLECULE_TOKEN} in an answer; the row is left out")
            continue
        kept.append({**row, **asked})
        numbers.append(number)
    if wrong:
        more = f" (and {len(wrong) - 1} more rows)" * (len(wrong) > 1)
        raise UsageError(f"{wrong[0]}{more}")
    if not kept:
        raise UsageError(spoilt[0])

    from datasets import Dataset

    prompts = tuple(data.prompts[number] for number in numbers)
    return replace(data, rows=Dataset.from_list(kept), prompts=prompts, problems=(*data.problems, *spoilt))


def _expand_prompt(row: Mapping[str, Any], queries: int, where: str) -> dict[str, Any]:
    """The prompt and the molecules of a row."""
    prompt, molecules = row["prompt"], row.get(MOLECULES)
    if any(not isinstance(message.get("content"), str) for message in prompt):
        told = {"prompt": prompt} if molecules is None else {"prompt": prompt, MOLECULES: molecules}
        columns = make_prompt_columns(parse_prompt_row(told, where, 1, PromptColumns(), Path()), molecules=True)
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
    whole = "\0".join(message["content"] for message in prompt)
    texts = expand_placeholders(whole, len(molecules), queries, f"{where}, field 'prompt'").split("\0")
    placed = [{**dict(one), "content": text} for one, text in zip(prompt, texts, strict=True)]
    return {"prompt": placed, MOLECULES: molecules}


def _get_content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else str(content)


@lru_cache(maxsize=FEATURE_CACHE_SIZE)
def get_features(smiles: str) -> MoleculeFeatures:
    """As `featurise`, once for each molecule of the data."""
    return featurise_molecule(smiles)
