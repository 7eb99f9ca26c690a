"""vLLM engine: continuous batching, prefix caching and grammars.

It runs in two ways. `VLLMEngine` steps vllm's LLMEngine in a thread of this process: it starts quickly, for scripts and
for replicas on CPUs. `AsyncVLLMEngine` uses vllm's AsyncLLM with the model in separate processes, for services on GPUs.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from torch import set_num_threads  # imported by name, because vllm replaces torch.set_num_threads by a no-op

from flex_judge.judges.engines.base import Engine, EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.hardware import choose_dtype
from flex_judge.judges.engines.threaded import EngineRequest, ThreadedEngine
from flex_judge.judges.engines.vllm.adapters import LiveChanges, build_adapter_arguments, build_adapter_request
from flex_judge.judges.engines.vllm.arguments import identify_checkpoint, parse_engine_arguments
from flex_judge.judges.engines.vllm.inputs import build_media_arguments, build_params, build_prompt
from flex_judge.judges.engines.vllm.process_guard import ProcessGuard
from flex_judge.judges.errors import EngineLostError, GenerationError, JudgeError, UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.checkpoints import open_checkpoint
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.omni import resolve_omni_model

CPU_BLOCK = 32  # tokens per cache block: only full blocks are reused, and CPU attention needs at least 32


def load(config: EngineConfig) -> Engine:
    """Load a model into vllm, in this process or, with `own_process`, in separate ones.

    Raises:
        UsageError: several GPUs without `own_process`.
    """
    if config.tensor_parallel > 1 and not config.own_process:
        raise UsageError(f"tensor_parallel: {config.tensor_parallel} GPUs need separate processes; set own_process too")
    _set_environment(config)
    # Imported before the checkpoint is opened: the import takes as long as converting the embedded model, which
    # another process may be doing meanwhile.
    import vllm  # noqa: F401

    return AsyncVLLMEngine(config) if config.own_process else VLLMEngine(config)


def _set_environment(config: EngineConfig) -> None:
    """Set the environment variables that vllm reads on import.

    Values set by the user are kept, except where the configuration decides: threads and process layout.
    """
    if config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if config.own_process else "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
    # vllm's automatic binding would put all engines of a small machine on the same cores.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


class _VLLMBase(LiveChanges):
    """Engine arguments, sampling parameters and output conversion of both vllm engines."""

    name = "vllm"
    _llm: Any

    def __init__(self, config: EngineConfig) -> None:
        from vllm.platforms import current_platform

        passed_arguments = parse_engine_arguments(config.engine_arg)
        checkpoint = identify_checkpoint(open_checkpoint(config.model, config.adapter), passed_arguments)
        super().__init__(config, checkpoint)
        self.model_id = checkpoint.model_id
        self.tokenizer = checkpoint.tokenizer
        self.profile = checkpoint.profile
        self.max_model_len = checkpoint.limit_context(config.max_model_len)
        self._placeholders = PlaceholderTokens(checkpoint.profile, checkpoint.tokenizer)
        self.max_batch = config.max_batch
        self._stop_ids = sorted(checkpoint.stop_ids)
        self._adapter = build_adapter_request(checkpoint)
        # This depends on the installed vllm build, not on the machine's hardware.
        self._on_cpu = on_cpu = current_platform.is_cpu()
        self.engine_args: dict[str, Any] = {
            "model": str(resolve_omni_model(checkpoint)),
            "dtype": choose_dtype(config.dtype, on_gpu=not on_cpu),
            "max_model_len": self.max_model_len,
            "max_num_seqs": config.max_batch,
            "tensor_parallel_size": config.tensor_parallel,
            "seed": config.seed,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "enforce_eager": on_cpu,  # on a CPU compiling takes minutes and gains little
            "logprobs_mode": "raw_logprobs",
            "generation_config": "vllm",  # ignore the checkpoint's sampling defaults; only the request's apply
            **build_media_arguments(checkpoint.profile),
            "enable_sleep_mode": config.allow_sleep and not on_cpu,  # vllm refuses it on a CPU
            **build_adapter_arguments(checkpoint, config.max_adapter_rank, on_cpu),
        }
        self.engine_args |= (
            {"block_size": CPU_BLOCK, "worker_cls": "flex_judge.judges.engines.vllm.cpu_worker.SeededWorker"}
            if on_cpu
            else {"gpu_memory_utilization": config.gpu_memory_utilization}
        )
        if config.tensor_parallel > 1:
            # Inside a Ray placement group, vllm would ask Ray for GPUs, but its own actor already holds all of them.
            self.engine_args["distributed_executor_backend"] = "mp"
        self.engine_args |= passed_arguments
        self._ids = itertools.count()

    @property
    def block_size(self) -> int:
        """Number of tokens per block of the prefix cache; only full blocks are reused."""
        return int(self._llm.vllm_config.cache_config.block_size)

    def _build_params(self, sampling: Sampling) -> Any:
        return build_params(sampling, self._stop_ids, self._placeholders)

    def _build_generation(self, output: Any, sampling: Sampling) -> Generation:
        result = output.outputs[0]
        ids = list(result.token_ids)
        reason: FinishReason = "length"
        if result.finish_reason == "stop":
            reason = "stop" if isinstance(result.stop_reason, str) else "eos"
            if reason == "eos":
                ids = ids[:-1]  # vllm includes the end-of-turn token
        requested = sampling.logprob_token_ids
        logprobs = (result.logprobs or [])[: len(ids)] if requested else []
        return Generation(
            text=self.tokenizer.decode(ids, clean_up_tokenization_spaces=False),
            token_ids=tuple(ids),
            finish_reason=reason,
            logprobs=tuple({t: step[t].logprob for t in requested if t in step} for step in logprobs),
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )


def _build_usage_error(error: Exception) -> UsageError:
    return UsageError(f"vllm rejected the request: {error}")


class AsyncVLLMEngine(_VLLMBase):
    """Engine on vllm's AsyncLLM. Must be created and used within one event loop.

    If one of its processes dies, vllm ends the others within seconds and every pending request fails with
    EngineLostError; `check_health` reports it within a second.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._llm: Any = AsyncLLM.from_engine_args(AsyncEngineArgs(**self.engine_args))
        self._guard = ProcessGuard([p.pid for p in self._llm.engine_core.resources.engine_manager.processes])
        self._stall_s = config.stall_s
        self._probe: asyncio.Task[None] | None = None
        self._probed_at = 0.0

    async def generate(
        self,
        prompt_token_ids: Sequence[int],
        sampling: Sampling,
        media: Sequence[PreparedMedia] = (),
        adapter: Any = None,
    ) -> Generation:
        """Continue one prompt, see `SupportsAdapters.generate`."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt = build_prompt(prompt_token_ids, media, self._placeholders, self.max_model_len)
        request_id = str(next(self._ids))
        lora = adapter or self._adapter
        stream = self._llm.generate(prompt, self._build_params(sampling), request_id, lora_request=lora)
        try:
            with self.sleeper.track_request():
                outputs = [output async for output in stream]
        except EngineDeadError as e:
            raise EngineLostError(f"the vllm engine died: {e}") from e
        except (ValueError, VLLMClientError) as e:
            raise _build_usage_error(e) from e
        return self._build_generation(outputs[-1], sampling)

    async def _call_llm(self, method: str, *args: Any) -> None:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await getattr(self._llm, method)(*args)
        except EngineDeadError as e:
            raise EngineLostError(f"the vllm engine died: {e}") from e

    async def check_health(self) -> None:
        """Raise EngineLostError if the engine died or has not answered a probe for `stall_s` seconds."""
        if self._llm.errored:
            raise EngineLostError(f"the vllm engine died: {self._llm.dead_error}")
        now = time.monotonic()
        if self._probe is None or self._probe.done():
            self._probe, self._probed_at = asyncio.create_task(self._send_probe()), now
        elif now - self._probed_at > self._stall_s:
            self._guard.kill()  # vllm notices the dead processes and fails the pending requests
            raise EngineLostError(f"the vllm engine has not answered for {self._stall_s:g} s; its processes were ended")

    def close(self) -> None:
        """Shut vllm down and end its processes."""
        from vllm.utils.async_utils import cancel_task_threadsafe

        if self._probe is not None:
            cancel_task_threadsafe(self._probe)
        self._llm.shutdown()
        self._guard.close()

    async def _send_probe(self) -> None:
        """Send a cheap request to the process that steps the engine, which answers between two steps."""
        from vllm.v1.engine.exceptions import EngineDeadError

        with suppress(EngineDeadError):  # `errored` reports this too
            await self._llm.is_sleeping()


class VLLMEngine(_VLLMBase, ThreadedEngine):
    """Engine on vllm's LLMEngine, stepped by a thread of this process; usable from any event loop."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._llm: Any = None
        self._running: dict[str, EngineRequest] = {}
        self._start_engine(partial(self._load_weights, config.threads), config.stall_s)

    def _load_weights(self, threads: int | None) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        # OMP_NUM_THREADS came too late if torch was imported before, and the limit holds per computing thread, so it is
        # set again in the engine thread.
        if threads:
            set_num_threads(threads)
        self._llm = LLMEngine.from_engine_args(EngineArgs(**self.engine_args))

    async def _call_llm(self, method: str, *args: Any) -> None:
        def call() -> None:
            self._abort_cancelled()  # an engine that sleeps would never report them as finished
            getattr(self._llm, method)(*args)

        await self._call_in_thread(call)

    def _run_step(self, new: list[EngineRequest]) -> bool:
        from vllm.exceptions import VLLMClientError

        while new:
            # The request leaves `new` only after it is stored or resolved, so that an error here cannot lose it.
            request = new[0]
            request_id = str(next(self._ids))
            try:
                prompt = build_prompt(request.prompt, request.media, self._placeholders, self.max_model_len)
                params = self._build_params(request.sampling)
                self._llm.add_request(request_id, prompt, params, lora_request=request.adapter or self._adapter)
            except JudgeError as e:  # an invalid request is the caller's error, not the engine's end
                request.resolve(e)
            except (ValueError, VLLMClientError) as e:
                request.resolve(_build_usage_error(e))
            except Exception as e:  # noqa: BLE001 - costs this request, not the others
                request.resolve(GenerationError(f"vllm failed to take this comparison: {type(e).__name__}: {e!s:.300}"))
            else:
                self._running[request_id] = request
            new.pop(0)
        for output in self._llm.step():
            if output.finished:
                request = self._running.pop(output.request_id)
                request.resolve(self._build_generation(output, request.sampling))
        self._abort_cancelled()
        return bool(self._running)

    def _abort_cancelled(self) -> None:
        cancelled = [request_id for request_id, request in self._running.items() if request.is_cancelled]
        if cancelled:
            self._llm.abort_request(cancelled)
            for request_id in cancelled:
                del self._running[request_id]

    def _list_pending(self) -> list[EngineRequest]:
        return list(self._running.values())

    def _free_model(self) -> None:
        if self._llm is not None:
            self._llm.engine_core.shutdown()
            self._llm = None
