"""A tiny Mol-LLaMA with random weights, and a judge of the same language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_models import LLAMA_TEMPLATE, LLAMA_TOKENS, _tokenizer

QUERIES = 8
SPREAD = 0.15
ASPIRIN, CAFFEINE, WATER, SALT = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "O", "[Na+].[Cl-]"


def tiny_config(tokens: int) -> Any:
    """Of a model whose base knows so many tokens. All widths differ, so that a mixed-up one fails."""
    from judges.models.mol_llama import MolLlamaConfig

    text = {
        "vocab_size": tokens + 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        },
    }
    return MolLlamaConfig(
        unimol_config={
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_kernels": 8,
        },
        gin_config={"hidden_size": 24, "num_hidden_layers": 2},
        blending_config={
            "hidden_size": 32,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
        qformer_config={
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 72,
        },
        text_config=text,
        num_query_tokens=QUERIES,
        molecule_token_id=tokens + 1,
    )


def tiny_mol_llama(folder: Path, adapter: bool = True, seed: int = 0) -> Path:
    """A checkpoint, with an adapter in it, in `folder`, which it returns."""
    import torch

    from judges.models.mol_llama import MolLlamaForConditionalGeneration, MolLlamaProcessor
    from judges.models.mol_llama.convert import ADAPTER, TARGETS, write_adapter
    from judges.models.mol_llama.tokens import prepare_tokenizer

    base = _tokenizer(LLAMA_TOKENS, (), normalized=False)
    base.bos_token = "<|begin_of_text|>"
    config = tiny_config(len(base))
    torch.manual_seed(seed)
    model = MolLlamaForConditionalGeneration(config)
    scramble(model)
    model.save_pretrained(folder)
    tokenizer = prepare_tokenizer(base, config)
    MolLlamaProcessor(tokenizer, QUERIES).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    if adapter:
        weights = {}
        for name, module in model.model.language_model.named_modules(prefix="base_model.model.model.language_model"):
            if name.rpartition(".")[2] in TARGETS:
                weights[f"{name}.lora_A.weight"] = torch.randn(8, module.in_features) * SPREAD
                weights[f"{name}.lora_B.weight"] = torch.randn(module.out_features, 8) * SPREAD
        write_adapter(weights, folder / ADAPTER, rank=8, alpha=32)
    return folder


def tiny_judge_llm(folder: Path, seed: int = 1) -> Path:
    """The language model alone, with other weights and without the two added tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(LLAMA_TOKENS, (), normalized=False)
    tokenizer.bos_token, tokenizer.eos_token = "<|begin_of_text|>", "<|eot_id|>"
    tokenizer.chat_template = LLAMA_TEMPLATE
    text = tiny_config(len(tokenizer)).text_config.to_dict() | {"vocab_size": len(tokenizer)}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**text))
    scramble(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def scramble(model: Any) -> None:
    """Random values for every weight and running average, none of them neutral."""
    import torch

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            tensor.copy_(torch.randn_like(tensor) * SPREAD)
            if name.endswith(("norm.weight", "LayerNorm.weight", "layernorm.weight", "running_var")) or "_norm" in name:
                tensor.abs_().add_(1.0 if not name.endswith("bias") else 0.0)
