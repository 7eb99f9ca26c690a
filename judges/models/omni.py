"""Conversion of a Qwen2.5-Omni thinker into the complete layout that vllm loads.

Qwen2.5-Omni is published in two layouts: complete, or the thinker alone, which is the part that judges. transformers
loads the thinker from either. vllm (0.32) loads complete checkpoints only, and silently ignores an adapter whose
weights lack the prefix of the complete layout. For vllm, both are therefore copied into the cache with other names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from flex_judge.judges.models.cache import build_once, fingerprint_folder, get_cache_dir
from flex_judge.judges.models.checkpoints import Checkpoint

_PEFT = "base_model.model."  # prefix that peft adds to the names of adapted weights


def resolve_omni_model(checkpoint: Checkpoint) -> Path:
    """Return a folder with the complete layout of a Qwen2.5-Omni checkpoint.

    A thinker alone is copied into the cache folder once; the copy is as large as its weights. Any other checkpoint is
    returned unchanged.
    """
    if checkpoint.model_type != "qwen2_5_omni_thinker" or checkpoint.is_part:
        return checkpoint.path
    return _copy_with_prefix(checkpoint.path, "whole", "", "thinker.")


def resolve_omni_adapter(checkpoint: Checkpoint) -> Path | None:
    """Return the checkpoint's adapter with weight names of the complete layout; None without an adapter."""
    if checkpoint.adapter is None or checkpoint.model_type != "qwen2_5_omni_thinker":
        return checkpoint.adapter
    return _copy_with_prefix(checkpoint.adapter, "adapter", _PEFT, f"{_PEFT}thinker.")


def _copy_with_prefix(source: Path, kind: str, old: str, new: str) -> Path:
    """Copy a folder into the cache and replace the prefix `old` of all weight names by `new`."""

    def write_copy(out: Path) -> None:
        out.mkdir()
        for file in sorted(p for p in source.iterdir() if p.is_file()):
            if file.suffix == ".safetensors":
                _rename_weights(file, out / file.name, old, new)
            else:
                shutil.copyfile(file, out / file.name)
        if kind == "whole":
            _wrap_config(out / "config.json")
        for index in out.glob("*.safetensors.index.json"):
            content = json.loads(index.read_text())
            content["weight_map"] = {_replace_prefix(n, old, new): file for n, file in content["weight_map"].items()}
            index.write_text(json.dumps(content, indent=2) + "\n")

    return build_once(get_cache_dir() / f"omni-{kind}-{fingerprint_folder(source)}", write_copy)


def _replace_prefix(name: str, old: str, new: str) -> str:
    return name if name.startswith(new) else new + name.removeprefix(old)


def _rename_weights(source: Path, target: Path, old: str, new: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(source, framework="pt") as file:
        weights = {_replace_prefix(name, old, new): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(weights, target, metadata={"format": "pt"})


def _wrap_config(file: Path) -> None:
    """Turn a thinker's config.json into the configuration of a complete model."""
    thinker = json.loads(file.read_text())
    config = {
        "architectures": ["Qwen2_5OmniForConditionalGeneration"],
        "model_type": "qwen2_5_omni",
        "dtype": thinker.get("dtype") or thinker.get("torch_dtype"),
        "thinker_config": {key: value for key, value in thinker.items() if key != "architectures"},
    }
    file.write_text(json.dumps(config, indent=2) + "\n")
