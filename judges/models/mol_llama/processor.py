"""Transformers processor: from prompts and SMILES strings to model inputs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import BatchFeature, ProcessorMixin

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.mol_llama.features import featurise_molecule
from flex_judge.judges.models.mol_llama.graphs import GRAPHS, collate_molecules
from flex_judge.judges.models.mol_llama.tokens import MOLECULE_TOKEN

_RUN = re.compile(f"(?:{re.escape(MOLECULE_TOKEN)})+")


class MolLlamaProcessor(ProcessorMixin):
    """Tokenize prompts with `<mol>` placeholders and featurise their molecules."""

    attributes = ["tokenizer"]  # noqa: RUF012 - transformers requires a plain class attribute
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: Any = None, num_query_tokens: int = 8, chat_template: str | None = None) -> None:
        self.num_query_tokens = num_query_tokens
        super().__init__(tokenizer, chat_template=chat_template or getattr(tokenizer, "chat_template", None))

    def __call__(
        self, text: str | Sequence[str], molecules: Sequence[Sequence[str]] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Build model inputs.

        Args:
            text: one prompt or several, as the chat template renders them, with one `<mol>` per molecule or already
                expanded.
            molecules: SMILES strings of each prompt in order; for a single prompt, a list with one list.
            kwargs: arguments of the tokenizer, such as `return_tensors="pt"` and `padding`.

        Raises:
            UsageError: a prompt has another number of placeholders than molecules.
            MediaError: a SMILES string is invalid or has no conformer; the message names the prompt and the molecule.
        """
        texts = [text] if isinstance(text, str) else list(text)
        smiles_lists = [[] for _ in texts] if molecules is None else [list(smiles) for smiles in molecules]
        if len(smiles_lists) != len(texts):
            raise UsageError(f"molecules: expected one list for each of {len(texts)} texts, got {len(smiles_lists)}")
        # All placeholders are checked first: conformers take up to seconds each.
        expanded = [
            expand_placeholders(prompt, len(smiles_list), self.num_query_tokens, f"text {i}")
            for i, (prompt, smiles_list) in enumerate(zip(texts, smiles_lists, strict=True), 1)
        ]
        features = []
        for i, smiles_list in enumerate(smiles_lists, 1):
            features.append(
                [featurise_molecule(smiles, f"text {i}, molecule {k}") for k, smiles in enumerate(smiles_list, 1)]
            )
        tokens = self.tokenizer(expanded, add_special_tokens=False, **kwargs)
        return BatchFeature({**tokens, **collate_molecules(features)})

    @property
    def model_input_names(self) -> list[str]:
        """Names of the inputs that the processor returns."""
        return ["input_ids", "attention_mask", *GRAPHS]


def expand_placeholders(text: str, molecules: int, queries: int, name: str = "text") -> str:
    """Repeat each molecule placeholder `queries` times; an already expanded text is returned unchanged.

    Raises:
        UsageError: the number of placeholders matches neither form.
    """
    runs = [len(run) // len(MOLECULE_TOKEN) for run in _RUN.findall(text)]
    if sum(runs) == molecules:
        return text.replace(MOLECULE_TOKEN, MOLECULE_TOKEN * queries)
    if sum(runs) == molecules * queries and not any(run % queries for run in runs):
        return text
    raise UsageError(
        f"{name}: has {sum(runs)} times {MOLECULE_TOKEN} for {molecules} molecules; write one for each molecule"
    )
