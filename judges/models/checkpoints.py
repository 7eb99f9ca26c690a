"""Checkpoint metadata shared by all engines: paths, configuration, family, tokenizer, stop tokens and model id."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flex_judge.judges.models import ADAPTER_FILES, BUNDLED_ADAPTER, MOL_LLAMA, resolve_adapter, resolve_model
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.profiles import Profile, detect_profile


@dataclass(frozen=True)
class Checkpoint:
    """Everything in a model's folder except its weights."""

    path: Path
    """Folder of the model."""
    adapter: Path | None
    """Folder of the LoRA adapter, if any."""
    model_id: str
    """Names and fingerprints of the model and its adapter. Equal ids give equal answers."""
    config: Mapping[str, Any]
    """Content of config.json; for a complete Qwen2.5-Omni, its `thinker_config`."""
    is_part: bool
    """Whether `config` is one part of a checkpoint that holds other models too."""
    tokenizer: Any
    """Transformers tokenizer of the model."""
    profile: Profile
    """Model family."""
    context: int | None
    """Context length of the language model in tokens; None if the checkpoint does not state it."""
    stop_ids: frozenset[int]
    """Ids of the tokens that end a turn."""
    base_id: str
    """Name and fingerprint of the model without its adapter."""

    @property
    def model_type(self) -> str:
        """The `model_type` of the configuration, such as `qwen2_5_vl`."""
        return str(self.config.get("model_type", ""))

    def with_adapter(self, adapter: Path, identity: str) -> Checkpoint:
        """Return the checkpoint with another adapter.

        Args:
            adapter: folder of the adapter.
            identity: its name and fingerprint, which the model id then ends with.
        """
        return replace(self, adapter=adapter, model_id=f"{self.base_id}+{identity}")

    def limit_context(self, limit: int) -> int:
        """Return the smaller of `limit` and the model's own context length, in tokens."""
        return min(limit, self.context or limit)


def open_checkpoint(model: str, adapter: str | None = None) -> Checkpoint:
    """Find and read a checkpoint. Imports transformers for the tokenizer; loads no weights.

    Args:
        model: name of an embedded model, a folder, or a hub id.
        adapter: folder or hub id of a LoRA adapter; None uses the adapter bundled with a Mol-LLaMA, if there is one.

    Raises:
        ModelNotFoundError: the model or the adapter is not available.
    """
    from transformers import AutoConfig, AutoTokenizer

    path = resolve_model(model)
    adapter_path = resolve_adapter(adapter) if adapter else None
    config = read_json(path / "config.json")
    if config.get("model_type") == MOL_LLAMA:
        importlib.import_module("flex_judge.judges.models.mol_llama")  # registers the architecture with transformers
        if adapter_path is None and (path / BUNDLED_ADAPTER / ADAPTER_FILES[0]).is_file():
            adapter, adapter_path = BUNDLED_ADAPTER, path / BUNDLED_ADAPTER
    model_config = config.get("thinker_config", config)
    # config.json may omit values that equal the class's default, so the context length comes from the class.
    text_config = AutoConfig.from_pretrained(path).get_text_config()
    tokenizer = AutoTokenizer.from_pretrained(path)
    vocabulary = tokenizer.get_added_vocab()
    profile = detect_profile(config, vocabulary)
    base_id = model_id = f"{model}@{fingerprint_folder(path)}"
    if adapter_path:
        model_id += f"+{adapter}@{fingerprint_folder(adapter_path)}"
    return Checkpoint(
        path=path,
        adapter=adapter_path,
        model_id=model_id,
        config=model_config,
        is_part=model_config is not config,
        tokenizer=tokenizer,
        profile=profile,
        context=getattr(text_config, "max_position_embeddings", None),
        stop_ids=collect_stop_ids(path, tokenizer, vocabulary, profile),
        base_id=base_id,
    )


def collect_stop_ids(path: Path, tokenizer: Any, vocabulary: Mapping[str, int], profile: Profile) -> frozenset[int]:
    """Collect the end-of-turn tokens named by the generation configuration, the tokenizer and the family."""
    configured = read_json(path / "generation_config.json").get("eos_token_id")  # an id, a list of ids, or absent
    candidates = [*(configured if isinstance(configured, list) else [configured]), tokenizer.eos_token_id]
    candidates += [vocabulary.get(token) for token in profile.stop_tokens]
    return frozenset(token_id for token_id in candidates if token_id is not None)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON file; return an empty dictionary if it does not exist."""
    content: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    return content
