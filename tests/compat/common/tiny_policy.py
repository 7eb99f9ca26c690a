"""Tiny policy with random weights, for drivers whose trainer needs a model or a tokenizer. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEXTS = ["What is 2 + 3? It is 5.", "says=0 says=1 says=2 says=3 says=4 says=5 says=6 says=7 says=8 says=9"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def save_tokenizer(folder: str | Path) -> Any:
    """Train a byte-level tokenizer on a few words, and save it in a folder."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(TEXTS, vocab_size=320, min_frequency=1, special_tokens=SPECIAL_TOKENS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
    )
    fast.save_pretrained(folder)
    return fast


def list_unprintable_tokens(tokenizer: Any) -> list[int]:
    """List the ids of tokens that a policy with random weights must not generate: special ones, and single bytes.

    Pass them to the trainer's generation as `suppress_tokens`, so that every completion is text.
    """
    ids = range(len(tokenizer))
    texts = [tokenizer.decode([i], skip_special_tokens=True) for i in ids]
    return [i for i, text in zip(ids, texts, strict=True) if not (text and text.isascii() and text.isprintable())]


def save_policy(folder: str | Path) -> str:
    """Save a Qwen2 model of two layers with random weights, and its tokenizer, in a folder.

    Returns:
        The folder.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = save_tokenizer(folder)
    config = Qwen2Config(
        vocab_size=max(len(tokenizer), 64),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return str(folder)
