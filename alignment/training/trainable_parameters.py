"""Selection of the trainable parameters: the language model, in full or through an adapter.

Encoders and projectors stay frozen, so that the language model keeps getting the embeddings it knows.
"""

from __future__ import annotations

import re
from typing import Any

from flex_judge.judges.errors import UsageError


def freeze_all_but_language_model(model: Any) -> int:
    """Make the language model of a transformers model trainable and freeze everything else.

    Returns:
        Number of trainable parameters.
    """
    model.requires_grad_(False)
    for part in (model.get_decoder(), model.get_output_embeddings()):
        if part is not None:
            part.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def find_lora_targets(model: Any, target_modules: list[str] | str | None) -> str:
    """Find the modules that get a LoRA adapter: linear layers in the blocks of the language model.

    Encoders and projectors may have layers with the same names, so the result is restricted to the language model.

    Args:
        model: Model of transformers.
        target_modules: Last parts of module names, such as `q_proj`; `all-linear` or None for all linear layers.

    Returns:
        Regular expression for PEFT's `target_modules`.

    Raises:
        UsageError: The language model has no linear layer of a given name.
    """
    import torch

    # Names inside the decoder are relative, so the path of the decoder itself is needed as a prefix.
    decoder = model.get_decoder()
    decoder_name = next(name for name, module in model.named_modules() if module is decoder)
    linear = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("layers.")
    }
    requested = [target_modules] if isinstance(target_modules, str) else list(target_modules or ["all-linear"])
    names = sorted(linear) if requested == ["all-linear"] else requested
    if unknown := [name for name in names if name not in linear]:
        raise UsageError(
            f"--lora_target_modules: the language model has no {unknown[0]}; choose from {', '.join(sorted(linear))}"
        )
    return rf"{re.escape(decoder_name)}\.layers\..*\.({'|'.join(map(re.escape, names))})"
