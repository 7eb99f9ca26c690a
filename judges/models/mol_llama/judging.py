"""Molecule judges: the language model of a Flex-Llama judge combined with Mol-LLaMA's encoders and adapters.

All language model weights come from the judge. Adapters, connector and encoders stay, and so do the embedding and head
rows of the two tokens that only Mol-LLaMA has.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

_LANGUAGE_MODEL = "model.language_model."
_HEAD = "lm_head.weight"
_TOKEN_ROWS = (f"{_LANGUAGE_MODEL}embed_tokens.weight", _HEAD)
"""Weights with one row per token; Mol-LLaMA's have two rows more than the judge's."""


def import_judge(mol_llama: Any, judge_llm: Any) -> Any:
    """Copy the weights of a judge into the language model of a Mol-LLaMA.

    Args:
        mol_llama: a `MolLlamaForConditionalGeneration`, with or without a peft adapter; modified in place.
        judge_llm: a text-only Llama of the same dimensions.

    Returns:
        `mol_llama`.

    Raises:
        UsageError: the judge lacks a weight, has an extra one, or has one of another shape.
    """
    import torch

    base = mol_llama.get_base_model() if hasattr(mol_llama, "get_base_model") else mol_llama
    targets = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in _select_language_weights(base.state_dict()).items()
        if ".lora_" not in name
    }
    weights = {_map_weight_name(name): tensor for name, tensor in judge_llm.state_dict().items()}
    if judge_llm.config.tie_word_embeddings:
        # A tied judge uses its embedding as head, while Mol-LLaMA's head is a weight of its own.
        weights[_HEAD] = weights[_TOKEN_ROWS[0]]
    _check_weights(weights, targets)
    with torch.no_grad():
        for name, tensor in weights.items():
            targets[name][: len(tensor)].copy_(tensor)
    return mol_llama


def import_judge_checkpoint(mol_llama: str, judge_llm: str, out: Path) -> Path:
    """Write a new checkpoint that combines a Mol-LLaMA with a judge, see `import_judge`; its adapter is copied.

    Args:
        mol_llama: folder or hub id of a converted Mol-LLaMA.
        judge_llm: folder or hub id of a judge, a text-only Llama.
        out: folder to write.

    Returns:
        `out`.

    Raises:
        ModelNotFoundError: one of the models is not available.
        UsageError: the models differ in dimensions or in their vocabularies.
    """
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flex_judge.judges.models import BUNDLED_ADAPTER, resolve_model
    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration

    mol_llama_path, judge_path = resolve_model(mol_llama), resolve_model(judge_llm)
    tokenizer, judge_tokenizer = (
        AutoTokenizer.from_pretrained(mol_llama_path),
        AutoTokenizer.from_pretrained(judge_path),
    )
    vocabulary = tokenizer.get_vocab()
    differing = [token for token, token_id in judge_tokenizer.get_vocab().items() if vocabulary.get(token) != token_id]
    if differing:
        raise UsageError(
            f"judge {judge_llm!r}: {len(differing)} of its tokens, such as {differing[0]!r}, differ from those of "
            f"{mol_llama!r}; use a judge tuned from the same base model"
        )
    model = MolLlamaForConditionalGeneration.from_pretrained(mol_llama_path, dtype="auto")
    import_judge(model, AutoModelForCausalLM.from_pretrained(judge_path, dtype=model.dtype))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if (mol_llama_path / BUNDLED_ADAPTER).is_dir():
        shutil.copytree(mol_llama_path / BUNDLED_ADAPTER, out / BUNDLED_ADAPTER, dirs_exist_ok=True)
    return out


def _select_language_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefixes = (_LANGUAGE_MODEL, "lm_head.")
    return {name: tensor for name, tensor in weights.items() if name.startswith(prefixes)}


def _map_weight_name(name: str) -> str:
    """Map the name of a plain Llama's weight to its name in Mol-LLaMA."""
    return name if name.startswith("lm_head.") else _LANGUAGE_MODEL + name.removeprefix("model.")


def _check_weights(weights: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    if missing := sorted(targets.keys() - weights.keys()):
        raise UsageError(f"judge: lacks {len(missing)} weights, the first is {missing[0]!r}")
    if unknown := sorted(weights.keys() - targets.keys()):
        raise UsageError(f"judge: has {len(unknown)} extra weights, the first is {unknown[0]!r}")
    for name, tensor in weights.items():
        target = targets[name]
        fits = tensor.shape[1:] == target.shape[1:] and (
            len(tensor) <= len(target) if name in _TOKEN_ROWS else len(tensor) == len(target)
        )
        if not fits:
            raise UsageError(
                f"weight {name!r}: has shape {tuple(tensor.shape)}, expected {tuple(target.shape)}; "
                "use a judge of the same size as Mol-LLaMA's language model"
            )
