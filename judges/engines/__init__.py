"""Engines: the ways a model is run. Each module imports its library only when its engine is loaded."""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import replace

from judges.engines.base import Engine, EngineConfig, FinishReason, Generation, Sampling
from judges.errors import EngineUnavailableError

ENGINES = {
    "transformers": "judges.engines.hf:load",
    "vllm": "judges.engines.vllm:load",
    "scripted": "judges.engines.scripted:load",
}
"""Engine name -> `module:function`; the function takes an EngineConfig and returns an Engine."""

__all__ = [
    "ENGINES",
    "Engine",
    "EngineConfig",
    "FinishReason",
    "Generation",
    "Sampling",
    "load_engine",
    "resolve_engine",
]


def resolve_engine(name: str) -> str:
    """The engine that `name` stands for on this machine.

    Raises:
        EngineUnavailableError: no such engine, or its package is not installed.
    """
    has_vllm = importlib.util.find_spec("vllm") is not None
    if name == "auto":
        return "vllm" if has_vllm else "transformers"
    if name not in ENGINES:
        raise EngineUnavailableError(f"engine {name!r} does not exist; choose one of auto, {', '.join(ENGINES)}")
    if name == "vllm" and not has_vllm:
        raise EngineUnavailableError(
            "engine vllm is not installed; run: uv sync (for a CPU), or "
            "uv sync --no-default-groups --group embedded --extra vllm (for a GPU), or use --engine transformers"
        )
    return name


def load_engine(config: EngineConfig) -> Engine:
    """Load the model of `config` into its engine.

    Raises:
        EngineUnavailableError: no such engine, or its package is not installed.
        ModelNotFoundError: no such model.
    """
    name = resolve_engine(config.engine)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # fast tokenizers fork badly once they have used threads
    module, function = ENGINES[name].split(":")
    engine: Engine = getattr(importlib.import_module(module), function)(replace(config, engine=name))
    return engine
