"""A checkpoint as every engine opens it: its files, its family, its tokenizer, and what identifies it."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.models import ADAPTER_FILES, BUNDLED_ADAPTER, MOL_LLAMA, resolve_adapter, resolve_model
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.profiles import Profile, detect_profile


@dataclass(frozen=True)
class Checkpoint:
    """A model's folder, read except for its weights."""

    path: Path
    """The folder."""
    adapter: Path | None
    """The folder of the LoRA adapter that is put on it."""
    model_id: str
    """Name and fingerprint of the model, and of its adapter: the same id, the same answers."""
    config: Mapping[str, Any]
    """Its config.json; of a whole Qwen2.5-Omni the thinker's part."""
    is_part: bool
    """Whether `config` is only a part of the checkpoint, which holds other models as well."""
    tokenizer: Any
    """Its transformers tokenizer."""
    profile: Profile
    """Its family."""
    context: int | None
    """Positions that the language model was made for; None where the checkpoint does not say."""
    stop_ids: frozenset[int]
    """Tokens that end a turn."""

    @property
    def model_type(self) -> str:
        """The `model_type` of the configuration, such as `qwen2_5_vl`."""
        return str(self.config.get("model_type", ""))

    def limit_context(self, limit: int) -> int:
        """The longest sequence in tokens: `limit`, or what the model supports if that is less."""
        return min(limit, self.context or limit)


def open_checkpoint(model: str, adapter: str | None = None) -> Checkpoint:
    """Find and read a checkpoint. Imports transformers for the tokenizer; loads no weights.

    Args:
        model: name of an embedded model, a folder, or a hub id.
        adapter: folder or hub id of a LoRA adapter; None takes that which a Mol-LLaMA brings along.

    Raises:
        ModelNotFoundError: the model or the adapter cannot be had.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = resolve_model(model)
    folder = resolve_adapter(adapter) if adapter else None
    whole = _read_json(path / "config.json")
    if whole.get("model_type") == MOL_LLAMA:
        importlib.import_module("flex_judge.judges.models.mol_llama")  # which makes it known to transformers
        if folder is None and (path / BUNDLED_ADAPTER / ADAPTER_FILES[0]).is_file():
            adapter, folder = BUNDLED_ADAPTER, path / BUNDLED_ADAPTER
    config = whole.get("thinker_config", whole)
    text = AutoConfig.from_pretrained(path).get_text_config()  # a file may leave out what is as its class has it
    tokenizer = AutoTokenizer.from_pretrained(path)
    vocabulary = tokenizer.get_added_vocab()
    profile = detect_profile(whole, vocabulary)
    named = [_read_json(path / "generation_config.json").get("eos_token_id"), tokenizer.eos_token_id]
    named += [vocabulary.get(token) for token in profile.stop_tokens]
    stop_ids = {i for ids in named for i in (ids if isinstance(ids, list) else [ids])}
    return Checkpoint(
        path=path,
        adapter=folder,
        model_id=f"{model}@{fingerprint_folder(path)}" + (f"+{adapter}@{fingerprint_folder(folder)}" if folder else ""),
        config=config,
        is_part=config is not whole,
        tokenizer=tokenizer,
        profile=profile,
        context=getattr(text, "max_position_embeddings", None),
        stop_ids=frozenset(stop_ids - {None}),
    )


def _read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is none."""
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content
