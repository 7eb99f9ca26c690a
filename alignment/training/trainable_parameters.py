"""What of a model learns: its language model, whole or by an adapter. Encoders and projectors stay as they are, or what
they see would no longer be what the language model knows."""

from __future__ import annotations

import re
from typing import Any

from flex_judge.judges.errors import UsageError


def freeze_all_but_language_model(model: Any) -> int:
    """Let the language model of a transformers model learn, and nothing else of it.

    Returns:
        How many parameters learn.
    """
    model.requires_grad_(False)
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for part in (decoder, head):
        if part is not None:
            part.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def find_lora_targets(model: Any, asked: list[str] | str | None) -> str:
    """The modules that an adapter changes, as the regular expression that PEFT takes: linear layers of the language
    model's blocks, and none of an encoder or projector, which may have layers of the same names.

    Args:
        model: a transformers model.
        asked: last parts of names (`q_proj`); `all-linear` or None for every one that there is.

    Raises:
        UsageError: the language model has no linear layer of a name.
    """
    import torch

    decoder = model.get_decoder()
    where = next(name for name, module in model.named_modules() if module is decoder)
    linear = {
        name.rpartition(".")[2]
        for name, module in decoder.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("layers.")
    }
    wanted = [asked] if isinstance(asked, str) else list(asked or ["all-linear"])
    names = sorted(linear) if wanted == ["all-linear"] else wanted
    if unknown := [name for name in names if name not in linear]:
        raise UsageError(
            f"--lora_target_modules: the language model has no {unknown[0]}; choose {', '.join(sorted(linear))}"
        )
    return rf"{re.escape(where)}\.layers\..*\.({'|'.join(map(re.escape, names))})"
