"""Tiny random checkpoints of the real architectures: Qwen2.5-VL, Qwen2.5-Omni and Llama 3.1.

Each has its family's control tokens, a chat template, processor configurations and seeded weights, and takes some
hundred kilobytes. Their replies are meaningless, but depend on every token, pixel and audio sample of the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONTEXT = 8192
HIDDEN, HEAD = 128, 64  # vllm on a CPU needs attention heads of at least 32 dimensions
SPREAD = 0.15  # standard deviation of the weights, much larger than usual, so that replies differ from prompt to prompt

_PLAIN = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")
_FILES = ("<|repo_name|>", "<|file_sep|>")
QWEN_VL_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
QWEN_OMNI_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>"),
)
QWEN_PLAIN_TOKENS = (*_PLAIN, *_FILES)
"""Added tokens that are not special tokens."""
LLAMA_TOKENS = (
    *("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"),
    *("<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|reserved_special_token_3|>", "<|reserved_special_token_4|>"),
)

QWEN_TEMPLATE = """\
{%- macro parts(content) -%}
{%- if content is string -%}{{ content }}{%- else -%}{%- for p in content -%}
{%- if p.type == 'text' -%}{{ p.text }}{%- else -%}{{ marks[p.type] }}{%- endif -%}
{%- endfor -%}{%- endif -%}
{%- endmacro -%}
{%- set marks = MARKS -%}
{%- set default = '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -%}
{%- if messages[0].role != 'system' -%}{{ default }}{%- endif -%}
{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\\n' }}{{ parts(m.content) }}{{ '<|im_end|>\\n' }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
LLAMA_TEMPLATE = """\
{%- macro turn(role, text) -%}
{{ '<|start_header_id|>' + role + '<|end_header_id|>\\n\\n' }}{{ text }}{{ '<|eot_id|>' }}
{%- endmacro -%}
{%- set date = date_string if date_string is defined else strftime_now('%d %b %Y') -%}
{%- set own = messages[0].role == 'system' -%}
{%- set system = messages[0].content | trim if own else '' -%}
{{ bos_token }}{{ turn('system', 'Today is ' + date + '.\\n\\n' + system) }}
{%- for m in (messages[1:] if own else messages) -%}{{ turn(m.role, m.content | trim) }}{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif -%}
"""
_CORPUS = (
    "the judge reads the question and both answers, then thinks and scores them from 1 to 10 for helpfulness",
    "<think> </think> <answer>3</answer><answer>5</answer> [Question] [Assistant 1's Answer] [Assistant 2's Answer]",
    "What is seen in the image? A red square on white ground, and a voice that says hello.",
)


def tiny_qwen_vl(folder: Path) -> Path:
    """Write a two-layer Qwen2.5-VL and return its folder."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    marks = {k: f"<|vision_start|><|{k}_pad|><|vision_end|>" for k in ("image", "video")}
    tokenizer = _build_qwen_tokenizer(QWEN_VL_TOKENS, marks)
    ids = tokenizer.get_vocab()
    config = Qwen2_5_VLConfig(
        text_config=_build_text_config(tokenizer, mrope=True, vocab_size=_pad_vocabulary(tokenizer)),
        vision_config=_build_vision_config(tokens_per_second=2),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return _write_checkpoint(folder, Qwen2_5_VLForConditionalGeneration, config, tokenizer, "Qwen2_5_VLProcessor")


def tiny_qwen_omni(folder: Path, whole: bool = True) -> Path:
    """Write a Qwen2.5-Omni and return its folder.

    With `whole`, the layout is the published one: the thinker is part of a larger checkpoint, here with a single weight
    of a talker. Otherwise the checkpoint is the thinker alone.
    """
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    marks = {k: f"<|vision_bos|><|{k.upper()}|><|vision_eos|>" for k in ("image", "video")}
    marks["audio"] = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    roles = {"image": "IMAGE", "audio": "AUDIO", "video": "VIDEO"}
    roles |= {n: n for n in ("vision_bos", "vision_eos", "audio_bos", "audio_eos")}
    tokenizer = _build_qwen_tokenizer(QWEN_OMNI_TOKENS, marks, {f"{n}_token": f"<|{t}|>" for n, t in roles.items()})
    ids = tokenizer.get_vocab()
    audio = {"num_mel_bins": 128, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": HIDDEN}
    config = Qwen2_5OmniThinkerConfig(
        text_config=_build_text_config(
            tokenizer, mrope=True, vocab_size=_pad_vocabulary(tokenizer), tie_word_embeddings=False
        ),
        vision_config=_build_vision_config(tokens_per_second=25),
        audio_config={**audio, "d_model": HIDDEN, "output_dim": HIDDEN, "initializer_range": SPREAD},
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        audio_token_index=ids["<|AUDIO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
        vision_end_token_id=ids["<|vision_eos|>"],
        initializer_range=SPREAD,
    )
    _write_checkpoint(folder, Qwen2_5OmniThinkerForConditionalGeneration, config, tokenizer, "Qwen2_5OmniProcessor")
    if whole:
        _nest_thinker(folder)
    return folder


def tiny_llama(folder: Path) -> Path:
    """Write a Llama with the tokens and a chat template like those of Llama 3.1, and return its folder."""
    from tokenizers import processors
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _build_tokenizer(LLAMA_TOKENS, (), normalized=False)
    begin = "<|begin_of_text|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.convert_tokens_to_ids(begin))]
    )
    tokenizer.bos_token, tokenizer.eos_token = begin, "<|eot_id|>"
    tokenizer.pad_token = "<|finetune_right_pad_id|>"
    tokenizer.chat_template = LLAMA_TEMPLATE
    config = LlamaConfig(
        **_build_text_config(tokenizer, mrope=False, vocab_size=_pad_vocabulary(tokenizer)), initializer_range=SPREAD
    )
    return _write_checkpoint(folder, LlamaForCausalLM, config, tokenizer, None)


LAYERS = r"model\.(language_model\.)?layers\..*\.(q_proj|v_proj|down_proj)"
"""Matches modules of the language model in all three architectures, and none of the encoders."""


def random_adapter(
    model: Path, folder: Path, seed: int = 0, rank: int = 4, alpha: int = 8, layers: str = LAYERS
) -> Path:
    """Write a LoRA adapter with random weights and return its folder.

    Args:
        model: checkpoint of the base model: one of these or another Llama.
        folder: folder to write.
        seed: seed of the weights.
        rank: rank of the matrices.
        alpha: the update is scaled by `alpha / rank`.
        layers: regular expression for the names of the adapted modules.
    """
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    kind = json.loads((model / "config.json").read_text())["model_type"]
    kinds = {"qwen2_5_vl": "Qwen2_5_VL", "qwen2_5_omni": "Qwen2_5OmniThinker", "llama": "Llama"}
    suffix = "ForCausalLM" if kind == "llama" else "ForConditionalGeneration"
    loader = getattr(transformers, kinds[kind.removesuffix("_thinker")] + suffix)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=layers, init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        get_peft_model(loader.from_pretrained(model), config).save_pretrained(folder)
    return folder


def _build_tokenizer(special: Sequence[str], plain: Sequence[str], normalized: bool, roles: Any = None) -> Any:
    """Build a byte-level BPE tokenizer with 300 ordinary tokens, followed by the control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    if normalized:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
    )
    backend.train_from_iterator(_CORPUS, trainer)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in plain])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, extra_special_tokens=roles or {}
    )


def _build_qwen_tokenizer(special: Sequence[str], marks: dict[str, str], roles: dict[str, str] | None = None) -> Any:
    tokenizer = _build_tokenizer(special, QWEN_PLAIN_TOKENS, normalized=True, roles=roles)
    tokenizer.eos_token, tokenizer.pad_token = "<|im_end|>", "<|endoftext|>"
    tokenizer.chat_template = QWEN_TEMPLATE.replace("MARKS", json.dumps(marks))
    return tokenizer


def _pad_vocabulary(tokenizer: Any) -> int:
    """Return the number of embedding rows, which exceeds the vocabulary, as in the real checkpoints."""
    return 64 * (len(tokenizer) // 64 + 1)


def _build_text_config(tokenizer: Any, mrope: bool, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": HIDDEN // HEAD,
        "num_key_value_heads": 1,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {**rope, "mrope_section": [8, 12, 12]} if mrope else rope,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **({"initializer_range": SPREAD} if mrope else {}),
        **more,
    }


def _build_vision_config(tokens_per_second: int) -> dict[str, Any]:
    return {
        "depth": 2,
        "hidden_size": HIDDEN,
        "intermediate_size": HIDDEN,
        "num_heads": HIDDEN // HEAD,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "window_size": 112,
        "tokens_per_second": tokens_per_second,
        "initializer_range": SPREAD,
    }


def _write_checkpoint(folder: Path, architecture: Any, config: Any, tokenizer: Any, processor: str | None) -> Path:
    import torch
    from transformers import GenerationConfig

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(config)
    # Real checkpoints have sampling defaults, which an engine must ignore.
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        repetition_penalty=1.05,
        temperature=0.1,
        top_k=1,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if processor:
        _write_processors(folder, processor)
    return folder


def _write_processors(folder: Path, processor: str) -> None:
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor, WhisperFeatureExtractor

    image = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": 256 * 28 * 28}).to_dict()
    if processor == "Qwen2_5OmniProcessor":
        audio = WhisperFeatureExtractor(feature_size=128, chunk_length=300, return_attention_mask=True).to_dict()
        image = {**{k: v for k, v in audio.items() if k != "mel_filters"}, **image}
    _write_json(folder / "preprocessor_config.json", {**image, "processor_class": processor})
    Qwen2VLVideoProcessor().save_pretrained(folder)


def _nest_thinker(folder: Path) -> None:
    """Turn the checkpoint of a thinker into one of a complete Qwen2.5-Omni."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = {f"thinker.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["talker.thinker_to_talker_proj.bias"] = torch.zeros(8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    thinker = json.loads((folder / "config.json").read_text())
    thinker.pop("architectures")
    whole = {"architectures": ["Qwen2_5OmniForConditionalGeneration"], "model_type": "qwen2_5_omni"}
    _write_json(folder / "config.json", {**whole, "dtype": "float32", "thinker_config": thinker})


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, default=list) + "\n")
