"""LoRA adapters: whether one fits its model. Asked before the weights are loaded, because peft only warns of weights
that it finds no place for, and vllm passes over them in silence: the judge would run, untuned.
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
    """The transformers class of a checkpoint's text-generating model."""
    import transformers

    return getattr(transformers, _ARCHITECTURES.get(checkpoint.model_type, "AutoModelForCausalLM"))


def read_adapter_shapes(adapter: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    """Names of the modules that an adapter changes -> the shapes of its matrices A (rank, in) and B (out, rank)."""
    from safetensors import safe_open

    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    with safe_open(adapter / "adapter_model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            if match := _WEIGHT.fullmatch(name):
                modules.setdefault(match[1], {})[match[2]] = tuple(file.get_slice(name).get_shape())
    return modules


def check_adapter(checkpoint: Checkpoint) -> None:
    """Raise UsageError if the checkpoint's adapter was not made for its model."""
    if checkpoint.adapter is None:
        return
    adapted = read_adapter_shapes(checkpoint.adapter)
    wrong = f"adapter {checkpoint.adapter}: does not fit the model {checkpoint.path}:"
    if not adapted:
        raise UsageError(f"{wrong} adapter_model.safetensors holds no LoRA weights")
    modules = dict(_build_empty_model(checkpoint).named_modules())
    for name, shapes in adapted.items():
        module = modules.get(name)
        if module is None:
            raise UsageError(f"{wrong} the model has no module {name!r}")
        for matrix, size in (("A", getattr(module, "in_features", None)), ("B", getattr(module, "out_features", None))):
            shape = shapes.get(matrix)
            if shape is None or (size is not None and shape[1 if matrix == "A" else 0] != size):
                raise UsageError(f"{wrong} matrix {matrix} of module {name!r} is of another size than the module")


def _build_empty_model(checkpoint: Checkpoint) -> Any:
    """The model without memory for its weights."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.path)
    architecture = resolve_architecture(checkpoint)
    with torch.device("meta"):
        if hasattr(architecture, "from_config"):
            return architecture.from_config(config)
        return architecture(getattr(config, "thinker_config", config))
