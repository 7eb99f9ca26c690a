"""Tiny Mol-LLaMA with random weights, for trying out commands, measuring and testing.

Its replies are meaningless, but depend on every atom and every token of the prompt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig

if TYPE_CHECKING:
    from torch import Tensor

LLAMA_TOKENS = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
SPREAD = 0.15
"""Standard deviation of the weights, much larger than usual, so that replies differ from prompt to prompt."""
RANK, ALPHA = 8, 32


def build_tiny_tokenizer() -> Any:
    """Build a byte tokenizer with the control tokens of Llama 3."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in LLAMA_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=LLAMA_TOKENS[0],
        eos_token=LLAMA_TOKENS[-1],
        clean_up_tokenization_spaces=False,
    )


def build_tiny_config(tokens: int) -> MolLlamaConfig:
    """Build the configuration for a base vocabulary of `tokens` tokens.

    All widths differ, so that a mixed-up dimension fails instead of passing by accident.
    """
    text_config = {
        "vocab_size": tokens + 2,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500_000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 2048,
        },
    }
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4}
    return MolLlamaConfig(
        unimol_config={"hidden_size": 32, "intermediate_size": 40, "num_kernels": 8, **sizes},
        gin_config={"hidden_size": 24, "num_hidden_layers": 2},
        blending_config={"hidden_size": 32, "intermediate_size": 56, **sizes},
        qformer_config={"hidden_size": 48, "intermediate_size": 72, **sizes},
        text_config=text_config,
        molecule_token_id=tokens + 1,
    )


def write_tiny_model(folder: Path, adapter: bool = True, seed: int = 0) -> Path:
    """Write a Mol-LLaMA checkpoint, by default with a random LoRA adapter, and return its folder."""
    import torch

    from flex_judge.judges.models import BUNDLED_ADAPTER
    from flex_judge.judges.models.mol_llama.convert import TARGETS, write_adapter
    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration
    from flex_judge.judges.models.mol_llama.processor import MolLlamaProcessor
    from flex_judge.judges.models.mol_llama.tokens import prepare_tokenizer

    tokenizer = build_tiny_tokenizer()
    config = build_tiny_config(len(tokenizer))
    torch.manual_seed(seed)
    model = MolLlamaForConditionalGeneration(config)
    randomise_weights(model.state_dict())
    model.save_pretrained(folder)
    MolLlamaProcessor(prepare_tokenizer(tokenizer, config), config.num_query_tokens).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.eos_token_id}))
    if adapter:
        weights = {}
        for name, module in model.model.language_model.named_modules(prefix="base_model.model.model.language_model"):
            if name.rpartition(".")[2] in TARGETS:
                weights[f"{name}.lora_A.weight"] = torch.randn(RANK, module.in_features) * SPREAD
                weights[f"{name}.lora_B.weight"] = torch.randn(module.out_features, RANK) * SPREAD
        write_adapter(weights, folder / BUNDLED_ADAPTER, RANK, ALPHA)
    return folder


def write_tiny_judge(folder: Path, seed: int = 1) -> Path:
    """Write a text-only judge with the dimensions of the language model and return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from flex_judge.judges.models.mol_llama.tokens import CHAT_TEMPLATE

    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    settings = build_tiny_config(len(tokenizer)).text_config.to_dict() | {"vocab_size": len(tokenizer)}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    randomise_weights(model.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def randomise_weights(weights: dict[str, Tensor]) -> None:
    """Set every weight and running average to a random value."""
    import torch

    with torch.no_grad():
        for name, tensor in weights.items():
            if tensor.is_floating_point():
                tensor.copy_(torch.randn_like(tensor) * SPREAD)
                # Norm scales and variances stay above 1: near zero they would erase or blow up the signal.
                is_scale = "norm" in name.lower() and not name.endswith(("bias", "running_mean"))
                if is_scale or name.endswith("running_var"):
                    tensor.abs_().add_(1.0)
