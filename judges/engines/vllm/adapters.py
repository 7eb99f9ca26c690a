"""Changes of a running vllm engine: LoRA adapters, with their engine arguments and requests, and sleep."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from abc import ABC, abstractmethod
from typing import Any

from flex_judge.judges.engines.adapters import AdaptedEngine, Adapter
from flex_judge.judges.engines.base import Engine, EngineConfig
from flex_judge.judges.engines.sleep import EngineSleeper, check_files
from flex_judge.judges.errors import AdapterError, EngineLostError, UsageError, to_one_line
from flex_judge.judges.models.adapters import check_adapter, read_adapter_shapes
from flex_judge.judges.models.checkpoints import Checkpoint
from flex_judge.judges.models.omni import resolve_omni_adapter

ENCODERS = ("model.visual.", "visual.", "audio_tower.")  # prefixes of the modules that vllm applies no LoRA to
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # maximum ranks that vllm can be configured for
log = logging.getLogger(__name__)
_numbers = itertools.count(2)
"""Numbers of the adapters that are loaded while an engine runs; the one that it is started with has 1."""


class LiveChanges(ABC):
    """Part of a vllm engine that changes it while it runs: loads adapters, puts it to sleep and wakes it."""

    engine_args: dict[str, Any]
    name: str
    _on_cpu: bool

    def __init__(self, config: EngineConfig, checkpoint: Checkpoint) -> None:
        self._checkpoint, self._max_adapter_rank = checkpoint, config.max_adapter_rank
        self._loaded: dict[int, Checkpoint] = {}
        self.sleeper: Any = EngineSleeper(self.name, self._sleep_model, self._wake_model, config.allow_sleep)

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load an adapter next to the others, see `AdapterHost.load_adapter`."""
        if not self._max_adapter_rank:
            raise AdapterError(f"adapter {adapter.name!r}: the engine was started without max_adapter_rank; set it")
        checkpoint = self._checkpoint.with_adapter(adapter.folder, adapter.identity)
        try:
            await asyncio.to_thread(check_adapter_rank, checkpoint, self.engine_args["max_lora_rank"])
            request = await asyncio.to_thread(build_adapter_request, checkpoint, next(_numbers))
            await self._call_llm("add_lora", request)
        except (AdapterError, EngineLostError):
            raise
        except Exception as e:  # whatever is wrong with the files concerns this adapter only
            raise AdapterError(f"adapter {adapter.name!r}: vllm cannot load it: {to_one_line(e)[:300]}") from e
        self._loaded[request.lora_int_id] = checkpoint
        # vllm frees the least recently used adapter by itself.
        return AdaptedEngine(self, request, checkpoint.model_id, lambda: self._forget_adapter(request.lora_int_id))

    def _forget_adapter(self, number: int) -> None:
        del self._loaded[number]

    @abstractmethod
    async def _call_llm(self, method: str, *args: Any) -> None:
        """Call a method of vllm's LLMEngine or AsyncLLM.

        Raises:
            EngineLostError: the engine has ended.
            Exception: any other error of the method.
        """

    async def _sleep_model(self, level: int) -> None:
        if self._on_cpu:
            log.warning("vllm frees no memory on a CPU; the engine only refuses work until it wakes")
        await self._call_llm("sleep", level)  # drops the prefix cache too

    async def _wake_model(self, level: int) -> None:
        if level == 1:
            await self._call_llm("wake_up")
            return
        for checkpoint in (self._checkpoint, *self._loaded.values()):
            await asyncio.to_thread(check_files, checkpoint)
        # The weights first: reading them takes memory that the KV cache would occupy.
        await self._call_llm("wake_up", ["weights"])
        await self._call_llm("collective_rpc", "reload_weights")  # adapters are read again with their next request
        await self._call_llm("wake_up", ["kv_cache"])


def build_adapter_arguments(checkpoint: Checkpoint, max_adapter_rank: int = 0, on_cpu: bool = False) -> dict[str, Any]:
    """Build the engine arguments for a checkpoint's adapter, and for those that are loaded later.

    Args:
        checkpoint: the checkpoint.
        max_adapter_rank: maximum rank of adapters that are loaded later; 0 if there are none.
        on_cpu: whether vllm computes on a CPU.

    Raises:
        UsageError: the adapter does not fit the model, changes its encoders, or has too large a rank for vllm; or
            adapters are loaded later on a CPU, and there is none now.
    """
    if max_adapter_rank and on_cpu and checkpoint.adapter is None:
        # Its CPU kernels (0.32) index the adapters of a batch with -1 for such a request, which is the last adapter.
        raise UsageError(
            "max_adapter_rank: in a batch with adapters, vllm on a CPU applies one to requests without an adapter too; "
            "start with an adapter, or use --engine transformers"
        )
    rank = max(0 if checkpoint.adapter is None else check_adapter_rank(checkpoint), max_adapter_rank)
    if rank == 0:
        return {}
    if rank > LORA_RANKS[-1]:
        raise UsageError(f"max_adapter_rank: {rank} is above vllm's maximum of {LORA_RANKS[-1]}; choose a lower one")
    arguments = {"enable_lora": True, "max_loras": 1, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}
    # Requests of the earlier and of the new adapter run side by side until the earlier ones are done. The other two
    # places in memory are for an adapter that is being loaded, and for the one that the engine was started with.
    return arguments if max_adapter_rank == 0 else {**arguments, "max_loras": 2, "max_cpu_loras": 4}


def check_adapter_rank(checkpoint: Checkpoint, max_rank: int = LORA_RANKS[-1]) -> int:
    """Check that vllm can apply a checkpoint's adapter, and return its rank.

    Raises:
        UsageError: the adapter does not fit the model, changes its encoders, or has a rank above `max_rank`.
    """
    assert checkpoint.adapter is not None
    check_adapter(checkpoint)
    if any(name.startswith(ENCODERS) for name in read_adapter_shapes(checkpoint.adapter)):
        raise UsageError(
            f"adapter {checkpoint.adapter}: changes the model's encoders, which vllm would ignore; "
            "use --engine transformers"
        )
    config = json.loads((checkpoint.adapter / "adapter_config.json").read_text())
    rank = int(max([config.get("r", 8), *config.get("rank_pattern", {}).values()]))
    if rank > max_rank and max_rank < LORA_RANKS[-1]:
        raise UsageError(
            f"adapter {checkpoint.adapter}: rank {rank} is above the {max_rank} that the engine was started with; "
            "raise max_adapter_rank"
        )
    if rank > max_rank:
        raise UsageError(
            f"adapter {checkpoint.adapter}: rank {rank} is above vllm's maximum of {LORA_RANKS[-1]}; "
            "use --engine transformers"
        )
    return rank


def build_adapter_request(checkpoint: Checkpoint, number: int = 1) -> Any:
    """Build the LoRARequest that applies the adapter to a request; None without an adapter.

    Args:
        checkpoint: the checkpoint.
        number: number of the adapter in the engine. vllm caches prefixes by the name of the adapter and weights by its
            number, so each version of an adapter must have its own.
    """
    folder = resolve_omni_adapter(checkpoint)
    if folder is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(f"adapter-{number}", number, str(folder))
