"""Loading a tokenizer from a checkpoint's folder without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def load_tokenizer(folder: Path) -> Any:
    """Load the transformers tokenizer in a folder.

    AutoTokenizer would find its class too, but imports torch for that, which takes ten seconds.

    Raises:
        FileNotFoundError: the folder has no tokenizer_config.json.
    """
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    return _find_tokenizer_class(settings.get("tokenizer_class") or "").from_pretrained(folder)


def _find_tokenizer_class(name: str) -> Any:
    import transformers

    cls = getattr(transformers, name, None)
    is_tokenizer = isinstance(cls, type) and issubclass(cls, transformers.PreTrainedTokenizerBase)
    return cls if is_tokenizer else transformers.AutoTokenizer
