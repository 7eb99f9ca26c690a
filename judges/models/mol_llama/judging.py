"""A judge that sees molecules: the language model of a Flex-Llama judge under Mol-LLaMA's adapters and eyes.

Every weight of the language model becomes the judge's. Adapters, connector and encoders stay; so do the rows of the two
tokens that only Mol-LLaMA has, in the embedding and in the head.
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
_GROWN = (f"{_LANGUAGE_MODEL}embed_tokens.weight", _HEAD)
"""Weights with a row for each token."""


def import_judge(mol_llama: Any, judge_llm: Any) -> Any:
    """Put the weights of a judge's language model under those of Mol-LLaMA that see.

    Args:
        mol_llama: a `MolLlamaForConditionalGeneration`, with or without adapters on it; is changed in place.
        judge_llm: a Llama for text of the same dimensions.

    Returns:
        `mol_llama`.

    Raises:
        UsageError: the judge lacks a weight, has one too many, or one of another shape.
    """
    import torch

    base = mol_llama.get_base_model() if hasattr(mol_llama, "get_base_model") else mol_llama
    places = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in _select_language_weights(base.state_dict()).items()
    }
    places = {name: tensor for name, tensor in places.items() if ".lora_" not in name}
    given = {_map_weight_name(name): tensor for name, tensor in judge_llm.state_dict().items()}
    if judge_llm.config.tie_word_embeddings:
        given[_HEAD] = given[_GROWN[0]]
    _check_weights(given, places)
    with torch.no_grad():
        for name, tensor in given.items():
            places[name][: len(tensor)].copy_(tensor)
    return mol_llama


def import_judge_checkpoint(mol_llama: str, judge_llm: str, out: Path) -> Path:
    """As `import_judge`, of checkpoints, into a new one; the adapter goes along.

    Args:
        mol_llama: folder or hub id of a converted Mol-LLaMA.
        judge_llm: folder or hub id of a judge, a Llama for text.
        out: a new folder, which is returned.

    Raises:
        ModelNotFoundError: one of them cannot be had.
        UsageError: they do not fit, or do not have the same tokens.
    """
    import shutil

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from flex_judge.judges.models import resolve_model
    from flex_judge.judges.models.mol_llama.convert import ADAPTER
    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration

    seeing, judging = resolve_model(mol_llama), resolve_model(judge_llm)
    tokenizer, theirs = AutoTokenizer.from_pretrained(seeing), AutoTokenizer.from_pretrained(judging)
    known = tokenizer.get_vocab()
    other = [token for token, place in theirs.get_vocab().items() if known.get(token) != place]
    if other:
        raise UsageError(
            f"judge {judge_llm!r}: {len(other)} of its tokens, such as {other[0]!r}, are not those of {mol_llama!r}"
        )
    model = MolLlamaForConditionalGeneration.from_pretrained(seeing, dtype="auto")
    import_judge(model, AutoModelForCausalLM.from_pretrained(judging, dtype=model.dtype))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    if (seeing / ADAPTER).is_dir():
        shutil.copytree(seeing / ADAPTER, out / ADAPTER, dirs_exist_ok=True)
    return out


def _select_language_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in weights.items() if name.startswith((_LANGUAGE_MODEL, "lm_head."))}


def _map_weight_name(name: str) -> str:
    """Where a weight of a plain Llama stands here."""
    return name if name.startswith("lm_head.") else _LANGUAGE_MODEL + name.removeprefix("model.")


def _check_weights(given: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    if missing := sorted(places.keys() - given.keys()):
        raise UsageError(f"the judge lacks {len(missing)} weights, of which the first is {missing[0]!r}")
    if unknown := sorted(given.keys() - places.keys()):
        raise UsageError(f"the judge has {len(unknown)} weights too many, of which the first is {unknown[0]!r}")
    for name, tensor in given.items():
        place = places[name]
        fits = tensor.shape[1:] == place.shape[1:] and (
            len(tensor) <= len(place) if name in _GROWN else len(tensor) == len(place)
        )
        if not fits:
            raise UsageError(f"weight {name!r}: is of shape {tuple(tensor.shape)}, expected {tuple(place.shape)}")
