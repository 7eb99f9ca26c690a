"""Token counts of texts with the tokenizer of the teacher or of a named model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.models import resolve_model
from flex_judge.judges.models.embedded import EMBEDDED

SCRIPTED = "scripted"
"""Name of the scripted engine's tokenizer, which makes one token of every byte."""
_BATCH_SIZE = 1000


@dataclass(frozen=True)
class TokenCounter:
    """Function that counts the tokens of texts."""

    tokenizer: Any
    name: str

    @classmethod
    def from_name(cls, name: str) -> TokenCounter:
        """Load a tokenizer. For a hub model only the tokenizer files are downloaded.

        Args:
            name: Name of an embedded model, folder, hub id, or SCRIPTED.

        Raises:
            UsageError: The tokenizer cannot be loaded.
        """
        if name == SCRIPTED:
            from flex_judge.judges.engines.scripted import build_byte_tokenizer

            return cls(build_byte_tokenizer(), name)
        path = resolve_model(name) if name in EMBEDDED else Path(name).expanduser()
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(path if path.is_dir() else name), name)
        except (OSError, ValueError) as e:
            problem = to_one_line(e)[:200]
            raise UsageError(
                f"tokenizer of {name!r}: cannot be loaded ({problem}); name another one with --tokenizer"
            ) from e

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text."""
        counts: list[int] = []
        for start in range(0, len(texts), _BATCH_SIZE):
            batch = list(texts[start : start + _BATCH_SIZE])
            # Special tokens at the beginning of a text are not part of the reasoning.
            token_ids = self.tokenizer(batch, add_special_tokens=False)["input_ids"]
            counts += map(len, token_ids)
        return counts

    @property
    def control_tokens(self) -> frozenset[str]:
        """Texts of the tokenizer's control tokens."""
        return frozenset(text for text in self.tokenizer.get_added_vocab() if text.strip())
