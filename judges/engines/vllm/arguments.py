"""Arguments of vllm's engine that users pass through: `NAME=VALUE`, checked against vllm's own argument class.

The class is read from vllm's source, because importing it takes ten seconds and more, and commands check their settings
before anything starts.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from flex_judge.judges.errors import UsageError, find_similar_name
from flex_judge.judges.models.checkpoints import Checkpoint

SETTING = "engine_arg"
ARGUMENTS_FILE, ARGUMENTS_CLASS = ("engine", "arg_utils.py"), "EngineArgs"

OTHER_SETTINGS: Mapping[str, str] = {
    "model": "the setting `model`",
    "model_weights": "the setting `model`",
    "tokenizer": "the setting `model`, whose folder has the tokenizer",
    "dtype": "the setting `dtype`",
    "max_model_len": "the setting `max_model_len`",
    "max_num_seqs": "the setting `max_batch`",
    "seed": "the setting `seed`",
    "tensor_parallel_size": "the setting `gpus_per_replica` of a service",
    "data_parallel_size": "the setting `replicas` of a service",
    "enable_lora": "the settings `adapter` and `max_adapter_rank`",
    "max_lora_rank": "the setting `max_adapter_rank`",
    "max_loras": "the setting `max_adapter_rank`",
    "max_cpu_loras": "the setting `max_adapter_rank`",
    "enable_sleep_mode": "the setting `allow_sleep` of a service",
    "hf_token": "the environment variable HF_TOKEN, because judgments record engine arguments",
}
"""Arguments that other settings determine, and what to use instead."""
OWN = frozenset(
    {"logprobs_mode", "max_logprobs", "generation_config", "override_generation_config", "logits_processors"}
    | {"skip_tokenizer_init", "tokenizer_mode", "runner", "convert", "worker_cls", "distributed_executor_backend"}
    | {"structured_outputs_config", "reasoning_config", "limit_mm_per_prompt", "enable_mm_embeds", "diffusion_config"}
    | {"pipeline_parallel_size", "nnodes", "node_rank", "master_addr", "master_port", "pooler_config", "scheduler_cls"}
    | {"served_model_name", "tokens_only"}
)
"""Arguments on which the engine's own work depends: log-probabilities, tokens, grammars, processes."""
SPEED_ONLY = frozenset(
    {"gpu_memory_utilization", "kv_cache_memory_bytes", "num_gpu_blocks_override", "block_size", "enforce_eager"}
    | {"max_num_batched_tokens", "max_num_scheduled_tokens", "enable_chunked_prefill", "enable_prefix_caching"}
    | {"long_prefill_token_threshold", "max_num_active_seqs", "async_scheduling", "stream_interval", "watermark"}
    | {"scheduling_policy", "cpu_offload_gb", "kv_offloading_size", "kv_offloading_backend", "offload_backend"}
    | {"compilation_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "optimization_level"}
    | {"performance_mode", "attention_backend", "attention_config", "kernel_config", "moe_backend", "linear_backend"}
    | {"speculative_config", "spec_method", "spec_model", "spec_tokens", "disable_log_stats", "log_level"}
    | {"mm_processor_cache_gb", "mm_processor_cache_type", "mm_encoder_tp_mode", "mm_encoder_attn_backend"}
    | {"disable_custom_all_reduce", "enable_expert_parallel", "max_parallel_loading_workers", "download_dir"}
    | {"safetensors_load_strategy", "use_tqdm_on_load", "shutdown_timeout", "enable_flashinfer_autotune"}
    | {"enable_cumem_allocator", "numa_bind", "numa_bind_nodes", "numa_bind_cpus"}
)
"""Arguments that change speed and memory, and replies by rounding only. All others become part of the model's id."""


@dataclass(frozen=True)
class EngineArgument:
    """Argument of vllm's engine."""

    name: str
    type: str
    """Type as vllm's source writes it."""
    default: str
    """Default value as vllm's source writes it."""


def list_engine_arguments() -> list[EngineArgument]:
    """List the arguments that can be passed through to the installed vllm.

    Raises:
        UsageError: vllm is not installed, or its argument class is not found where it is expected.
    """
    return [
        argument
        for argument in _read_engine_arguments().values()
        if argument.name not in OWN and argument.name not in OTHER_SETTINGS
    ]


def parse_engine_arguments(items: Iterable[str]) -> dict[str, Any]:
    """Parse arguments of the form `NAME=VALUE`; values are YAML, such as `.5`, `fp8`, `true` or `{"method": "ngram"}`.

    Raises:
        UsageError: an argument has another form, is unknown to the installed vllm, is given twice, or belongs to
            another setting.

    Example:
        >>> parse_engine_arguments(["gpu_memory_utilization=.5", "quantization=fp8"])
        {'gpu_memory_utilization': 0.5, 'quantization': 'fp8'}
    """
    values: dict[str, Any] = {}
    for item in items:
        name, equals, text = item.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise _build_error(item, "expected NAME=VALUE, such as gpu_memory_utilization=0.5")
        if name in OTHER_SETTINGS:
            raise _build_error(name, f"use {OTHER_SETTINGS[name]} instead")
        if name in OWN:
            raise _build_error(name, "the judge's own work depends on it, so it cannot be changed")
        known = _read_engine_arguments()
        if name not in known:
            similar = find_similar_name(name, known)
            suggestion = f"did you mean {similar!r}?" if similar else "--help-all lists them"
            raise _build_error(name, f"vllm has no such engine argument; {suggestion}")
        if name in values:
            raise _build_error(name, "given twice; keep one")
        try:
            values[name] = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError as e:
            raise _build_error(name, f"the value {text!r:.80} is no YAML; quote texts with special characters") from e
    return values


def identify_checkpoint(checkpoint: Checkpoint, arguments: Mapping[str, Any]) -> Checkpoint:
    """Return the checkpoint with an id that tells apart engines whose arguments change replies, such as `quantization`.

    Args:
        checkpoint: the checkpoint.
        arguments: parsed engine arguments.
    """
    changing = {name: value for name, value in arguments.items() if name not in SPEED_ONLY}
    if not changing:
        return checkpoint
    name, _, fingerprint = checkpoint.base_id.rpartition("@")
    text = json.dumps([fingerprint, changing], sort_keys=True, default=str)
    base_id = f"{name}@{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return replace(checkpoint, base_id=base_id, model_id=base_id + checkpoint.model_id.removeprefix(checkpoint.base_id))


@lru_cache(maxsize=1)
def _read_engine_arguments() -> dict[str, EngineArgument]:
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        raise UsageError.of_setting(SETTING, "engine arguments are for vllm, which is not installed")
    file = Path(spec.submodule_search_locations[0]).joinpath(*ARGUMENTS_FILE)
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError.of_setting(
            SETTING, f"engine arguments: the installed vllm has no {file.name}; update it"
        ) from e
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == ARGUMENTS_CLASS)
    arguments: dict[str, EngineArgument] = {}
    for field in chain.from_iterable(node.body for node in classes):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        name, default = field.target.id, "" if field.value is None else ast.unparse(field.value)
        if not name.startswith("_"):
            arguments[name] = EngineArgument(name, ast.unparse(field.annotation), default)
    return arguments


def _build_error(what: str, problem: str) -> UsageError:
    return UsageError.of_setting(SETTING, f"engine argument {what!r:.80}: {problem}")
