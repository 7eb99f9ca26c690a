"""Lengths in tokens, by the tokenizer of the teacher or one that is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.models import resolve_model
from flex_judge.judges.models.embedded import EMBEDDED

SCRIPTED = "scripted"
"""Names the tokenizer of the scripted engine, to which every byte is a token."""
_AT_ONCE = 1000


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens."""

    tokenizer: Any
    name: str

    @classmethod
    def from_name(cls, name: str) -> TokenCounter:
        """Load a tokenizer, and of a model of the hub nothing else.

        Args:
            name: of an embedded model, a folder, or a hub id; or SCRIPTED.

        Raises:
            UsageError: it cannot be had.
        """
        if name == SCRIPTED:
            from flex_judge.judges.engines.scripted import build_byte_tokenizer

            return cls(build_byte_tokenizer(), name)
        path = resolve_model(name) if name in EMBEDDED else Path(name).expanduser()
        from transformers import AutoTokenizer

        try:
            return cls(AutoTokenizer.from_pretrained(path if path.is_dir() else name), name)
        except (OSError, ValueError) as e:
            said = to_one_line(e)[:200]
            raise UsageError(f"tokenizer of {name!r}: cannot be loaded; name another with --tokenizer ({said})") from e

    def __call__(self, texts: Sequence[str]) -> list[int]:
        """Texts -> the tokens of each."""
        found: list[int] = []
        for start in range(0, len(texts), _AT_ONCE):
            some = self.tokenizer(list(texts[start : start + _AT_ONCE]), add_special_tokens=False)["input_ids"]
            found += map(len, some)
        return found

    @property
    def control_tokens(self) -> frozenset[str]:
        """The texts of its control tokens."""
        return frozenset(text for text in self.tokenizer.get_added_vocab() if text.strip())
