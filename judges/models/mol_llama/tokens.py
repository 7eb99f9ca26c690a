"""Tokenizer of Mol-LLaMA: Llama 3's with a padding token, a molecule token and a chat template of its own."""

from __future__ import annotations

from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig

PAD_TOKEN, MOLECULE_TOKEN = "[PAD]", "<mol>"
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'system' -%}"
    "{{- '<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' -}}"
    "{%- elif message['role'] == 'user' -%}"
    "{{- '<|start_header_id|>user<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' -}}"
    "{%- else -%}"
    "{{- raise_exception('roles are system, user and assistant, not ' + message['role']) -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}"
    "{%- endif -%}"
)
"""Chat format of the model's training: `<|begin_of_text|>` precedes a system message only, and contents are not
trimmed."""


def prepare_tokenizer(tokenizer: Any, config: MolLlamaConfig) -> Any:
    """Add the two tokens, if missing, and the chat template to a Llama tokenizer.

    Raises:
        UsageError: the ids of the tokens differ from the configuration.
    """
    missing = [token for token in (PAD_TOKEN, MOLECULE_TOKEN) if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if MOLECULE_TOKEN in missing:
        tokenizer.add_special_tokens({"extra_special_tokens": [MOLECULE_TOKEN]}, replace_extra_special_tokens=False)
    token_id = tokenizer.convert_tokens_to_ids(MOLECULE_TOKEN)
    if token_id != config.molecule_token_id or len(tokenizer) != config.text_config.vocab_size:
        raise UsageError(
            f"tokenizer {tokenizer.name_or_path!r}: {MOLECULE_TOKEN} is token {token_id} of {len(tokenizer)}, the "
            f"configuration expects {config.molecule_token_id} of {config.text_config.vocab_size}; check --base and "
            "--config"
        )
    tokenizer.eos_token = "<|eot_id|>"  # end of turn; generation stops here
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # only init_kwargs are saved
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
