"""From chats and SMILES strings to the model's inputs, in transformers' way."""

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
    """Texts with `<mol>` in the place of each molecule, and the molecules."""

    attributes = ["tokenizer"]  # noqa: RUF012 - as transformers wants it
    tokenizer_class = "AutoTokenizer"

    def __init__(self, tokenizer: Any = None, num_query_tokens: int = 8, chat_template: str | None = None) -> None:
        self.num_query_tokens = num_query_tokens
        super().__init__(tokenizer, chat_template=chat_template or getattr(tokenizer, "chat_template", None))

    def __call__(
        self, text: str | Sequence[str], molecules: Sequence[Sequence[str]] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Args:
            text: prompts as the chat template writes them, with `<mol>` for each molecule, or already expanded.
            molecules: of each prompt, the SMILES strings in their order; of one text, a list of one list.
            kwargs: those of the tokenizer, such as `return_tensors="pt"` and `padding`.

        Raises:
            UsageError: a text has another number of places than molecules.
            MediaError: a SMILES string that is none, or of which there is no conformer; it says which one.
        """
        texts = [text] if isinstance(text, str) else list(text)
        given = [[] for _ in texts] if molecules is None else [list(one) for one in molecules]
        if len(given) != len(texts):
            raise UsageError(f"molecules: expected a list for each of {len(texts)} texts, got {len(given)}")
        expanded = [
            expand_placeholders(one, len(smiles), self.num_query_tokens, f"text {i + 1}")
            for i, (one, smiles) in enumerate(zip(texts, given, strict=True))
        ]
        seen = [
            [featurise_molecule(one, f"text {i + 1}, molecule {k + 1}") for k, one in enumerate(smiles)]
            for i, smiles in enumerate(given)
        ]
        tokens = self.tokenizer(expanded, add_special_tokens=False, **kwargs)
        return BatchFeature({**tokens, **collate_molecules(seen)})

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *GRAPHS]


def expand_placeholders(text: str, molecules: int, queries: int, name: str = "text") -> str:
    """A text with as many placeholders in the place of each molecule as it takes vectors. A text that has them already
    stays as it is.

    Raises:
        UsageError: the places fit neither way.
    """
    runs = [len(run) // len(MOLECULE_TOKEN) for run in _RUN.findall(text)]
    if sum(runs) == molecules:
        return text.replace(MOLECULE_TOKEN, MOLECULE_TOKEN * queries)
    if sum(runs) == molecules * queries and not any(run % queries for run in runs):
        return text
    raise UsageError(f"{name}: has {sum(runs)} times {MOLECULE_TOKEN} for {molecules} molecules; expected one for each")
