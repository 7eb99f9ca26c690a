"""The tokens and the chat format of Mol-LLaMA: those of Llama 3 with a token to pad with and one for molecules."""

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
"""As the model was trained: the text begins with a token of its own only where there is a system message, and nothing
is trimmed."""


def prepare_tokenizer(tokenizer: Any, config: MolLlamaConfig) -> Any:
    """Give a Llama's tokenizer the two tokens, if it lacks them, and the chat format.

    Raises:
        UsageError: the tokens do not end up where the configuration has them.
    """
    missing = [token for token in (PAD_TOKEN, MOLECULE_TOKEN) if token not in tokenizer.get_vocab()]
    tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    if MOLECULE_TOKEN in missing:
        tokenizer.add_special_tokens({"extra_special_tokens": [MOLECULE_TOKEN]}, replace_extra_special_tokens=False)
    place = tokenizer.convert_tokens_to_ids(MOLECULE_TOKEN)
    if place != config.molecule_token_id or len(tokenizer) != config.text_config.vocab_size:
        raise UsageError(
            f"tokenizer {tokenizer.name_or_path!r}: {MOLECULE_TOKEN} is token {place} of {len(tokenizer)}, where the "
            f"configuration has {config.molecule_token_id} of {config.text_config.vocab_size}"
        )
    tokenizer.eos_token = "<|eot_id|>"  # ends a turn, and so an answer
    tokenizer.padding_side = tokenizer.init_kwargs["padding_side"] = "left"  # the latter is what is saved
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
