"""Qwen2.5-Omni in the two forms it comes in: whole, or its thinker alone, which is the part that judges.

transformers loads the thinker out of either. vllm (0.32) runs whole checkpoints only, and passes over an adapter in
silence unless its weights are named as within the whole. So for vllm both are written again, under other names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from flex_judge.judges.models.cache import build_once, fingerprint_folder, get_cache_dir
from flex_judge.judges.models.checkpoints import Checkpoint

_PEFT = "base_model.model."  # what peft puts before the names of the weights it adapts


def resolve_omni_model(checkpoint: Checkpoint) -> Path:
    """The folder of a whole Qwen2.5-Omni with this checkpoint's thinker in it; any other checkpoint's own folder.

    A thinker alone is copied once into the cache folder, with the size of its weights.
    """
    if checkpoint.model_type != "qwen2_5_omni_thinker" or checkpoint.is_part:
        return checkpoint.path
    return _copy_with_prefix(checkpoint.path, "whole", "", "thinker.")


def resolve_omni_adapter(checkpoint: Checkpoint) -> Path | None:
    """The folder of this checkpoint's adapter, with its weights named as within a whole Qwen2.5-Omni."""
    if checkpoint.adapter is None or checkpoint.model_type != "qwen2_5_omni_thinker":
        return checkpoint.adapter
    return _copy_with_prefix(checkpoint.adapter, "adapter", _PEFT, f"{_PEFT}thinker.")


def _copy_with_prefix(source: Path, kind: str, old: str, new: str) -> Path:
    """A copy of a folder in the cache, in which the names of weights begin with `new` instead of `old`."""

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
    thinker = json.loads(file.read_text())
    whole = {
        "architectures": ["Qwen2_5OmniForConditionalGeneration"],
        "model_type": "qwen2_5_omni",
        "dtype": thinker.get("dtype") or thinker.get("torch_dtype"),
        "thinker_config": {key: value for key, value in thinker.items() if key != "architectures"},
    }
    file.write_text(json.dumps(whole, indent=2) + "\n")
