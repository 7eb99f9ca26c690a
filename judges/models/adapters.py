"""Compatibility check between a LoRA adapter and its base model.

It runs before the weights are loaded: peft only warns about adapter weights without a matching module, and vllm skips
them silently, so the judge would run untuned.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.checkpoints import Checkpoint

_THINKER = "Qwen2_5OmniThinkerForConditionalGeneration"
_ARCHITECTURES = {
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen2_5_omni_thinker": _THINKER,
    "qwen2_5_omni": _THINKER,
}
_WEIGHT = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def resolve_architecture(checkpoint: Checkpoint) -> Any:
    """Return the transformers class of a checkpoint's text-generating model."""
    import transformers

    return getattr(transformers, _ARCHITECTURES.get(checkpoint.model_type, "AutoModelForCausalLM"))


def read_adapter_shapes(adapter: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Read the shapes of an adapter's matrices.

    Returns:
        Module name -> {"A": (rank, in_features), "B": (out_features, rank)}.
    """
    from safetensors import safe_open

    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            if match := _WEIGHT.fullmatch(name):
                modules.setdefault(match[1], {})[match[2]] = tuple(file.get_slice(name).get_shape())
    return modules


def check_adapter(checkpoint: Checkpoint) -> None:
    """Check that every matrix of a checkpoint's adapter has a module of matching size in the model.

    Raises:
        UsageError: the adapter belongs to another model.
    """
    if checkpoint.adapter is None:
        return
    adapter_shapes = read_adapter_shapes(checkpoint.adapter)
    problem = f"adapter {checkpoint.adapter}: does not fit the model {checkpoint.path}:"
    if not adapter_shapes:
        raise UsageError(f"{problem} adapter_model.safetensors holds no LoRA weights")
    modules = dict(_build_empty_model(checkpoint).named_modules())
    for name, shapes in adapter_shapes.items():
        module = modules.get(name)
        if module is None:
            raise UsageError(f"{problem} the model has no module {name!r}")
        for matrix, size in (("A", getattr(module, "in_features", None)), ("B", getattr(module, "out_features", None))):
            shape = shapes.get(matrix)  # A is (rank, in_features), B is (out_features, rank)
            if shape is None or (size is not None and shape[1 if matrix == "A" else 0] != size):
                raise UsageError(
                    f"{problem} matrix {matrix} of module {name!r} has shape {shape}, expected size {size}"
                )


def _build_empty_model(checkpoint: Checkpoint) -> Any:
    """Build the model on the meta device, which allocates no memory for weights."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.path)
    architecture = resolve_architecture(checkpoint)
    with torch.device("meta"):
        if hasattr(architecture, "from_config"):
            return architecture.from_config(config)
        return architecture(getattr(config, "thinker_config", config))
