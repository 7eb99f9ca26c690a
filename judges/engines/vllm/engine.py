"""The vllm engine: continuous batching, prefix caching, grammars.

Two ways to run it. `VLLMEngine` steps the engine in a thread of this process: quick to start, for scripts and for
replicas on CPUs. `AsyncVLLMEngine` is vllm's AsyncLLM with the model in processes of its own: for a service on GPUs.
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

from torch import set_num_threads  # itself: vllm puts a function that does nothing in its place

from flex_judge.judges.engines.base import Engine, EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.threaded import EngineRequest, ThreadedEngine
from flex_judge.judges.engines.vllm.inputs import (
    build_adapter_arguments,
    build_adapter_request,
    build_media_arguments,
    build_prompt,
)
from flex_judge.judges.engines.vllm.process_guard import ProcessGuard
from flex_judge.judges.errors import EngineLostError, JudgeError, UsageError
from flex_judge.judges.hardware import choose_dtype
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.checkpoints import open_checkpoint
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens
from flex_judge.judges.models.omni import resolve_omni_model

NEVER = -100.0  # the strongest bias that vllm takes
CPU_BLOCK = 32  # tokens; only whole blocks are reused, and 32 is the smallest the CPU attention takes


def load(config: EngineConfig) -> Engine:
    if config.tensor_parallel > 1 and not config.own_process:
        raise UsageError(f"tensor_parallel {config.tensor_parallel} takes processes of its own; set own_process too")
    _set_environment(config)
    import vllm  # noqa: F401  # takes as long as converting the embedded model, which another process may be doing

    return AsyncVLLMEngine(config) if config.own_process else VLLMEngine(config)


def _set_environment(config: EngineConfig) -> None:
    """What vllm reads from the environment when it is imported. What the user has set stays."""
    if config.threads:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1" if config.own_process else "0"
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(max(1, round(config.kv_cache_gib))))
    # Binding each engine to cores would put all engines of a small machine on the same ones.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


class _VLLMBase:
    """What both ways share: arguments in, outputs out."""

    name = "vllm"
    _llm: Any

    def __init__(self, config: EngineConfig) -> None:
        from vllm.platforms import current_platform

        checkpoint = open_checkpoint(config.model, config.adapter)
        self.model_id = checkpoint.model_id
        self.tokenizer = checkpoint.tokenizer
        self.profile = checkpoint.profile
        self.max_model_len = checkpoint.limit_context(config.max_model_len)
        self._placeholders = PlaceholderTokens(checkpoint.profile, checkpoint.tokenizer)
        self.max_batch = config.max_batch
        self._stop_ids = sorted(checkpoint.stop_ids)
        self._adapter = build_adapter_request(checkpoint)
        on_cpu = current_platform.is_cpu()  # of the vllm that is installed, which need not be the machine's best
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
            "generation_config": "vllm",  # a checkpoint's sampling habits are nobody's wish here
            **build_media_arguments(checkpoint.profile),
            **build_adapter_arguments(checkpoint),
        }
        self.engine_args |= (
            {"block_size": CPU_BLOCK, "worker_cls": "flex_judge.judges.engines.vllm.cpu_worker.SeededWorker"}
            if on_cpu
            else {"gpu_memory_utilization": config.gpu_memory_utilization}
        )
        if config.tensor_parallel > 1:
            # In a placement group of Ray vllm would ask Ray for GPUs, which are all given to the actor it is in.
            self.engine_args["distributed_executor_backend"] = "mp"
        self._ids = itertools.count()

    @property
    def block_size(self) -> int:
        """Tokens in a block of the prefix cache; only whole blocks are reused."""
        return int(self._llm.vllm_config.cache_config.block_size)

    def _build_params(self, sampling: Sampling) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stop=list(sampling.stop) or None,
            stop_token_ids=self._stop_ids,
            # A pad that the model wrote would stand for a medium when the reply becomes part of the next prompt.
            logit_bias=dict.fromkeys(self._placeholders.ids.values(), NEVER) or None,
            include_stop_str_in_output=True,
            skip_special_tokens=False,
            structured_outputs=StructuredOutputsParams(regex=sampling.regex) if sampling.regex else None,
            logprob_token_ids=list(sampling.logprob_token_ids) or None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _build_generation(self, output: Any, sampling: Sampling) -> Generation:
        result = output.outputs[0]
        ids = list(result.token_ids)
        reason: FinishReason = "length"
        if result.finish_reason == "stop":
            reason = "stop" if isinstance(result.stop_reason, str) else "eos"
            if reason == "eos":
                ids = ids[:-1]
        wanted = sampling.logprob_token_ids
        logprobs = (result.logprobs or [])[: len(ids)] if wanted else []
        return Generation(
            text=self.tokenizer.decode(ids, clean_up_tokenization_spaces=False),
            token_ids=tuple(ids),
            finish_reason=reason,
            logprobs=tuple({t: at[t].logprob for t in wanted if t in at} for at in logprobs),
            prompt_tokens=len(output.prompt_token_ids),
            cached_tokens=output.num_cached_tokens or 0,
        )


def _build_usage_error(error: Exception) -> UsageError:
    return UsageError(f"vllm refuses the request: {error}")


class AsyncVLLMEngine(_VLLMBase):
    """vllm's AsyncLLM. Must be made and used within one event loop.

    If one of its processes dies, vllm ends the others within seconds and every request under way gets an
    EngineLostError; `check_health` says so within a second.
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
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt, name = (
            build_prompt(prompt_token_ids, media, self._placeholders, self.max_model_len),
            str(next(self._ids)),
        )
        stream = self._llm.generate(prompt, self._build_params(sampling), name, lora_request=self._adapter)
        try:
            outputs = [output async for output in stream]
        except EngineDeadError as e:
            raise EngineLostError(f"the vllm engine died: {e}") from e
        except (ValueError, VLLMClientError) as e:
            raise _build_usage_error(e) from e
        return self._build_generation(outputs[-1], sampling)

    async def check_health(self) -> None:
        if self._llm.errored:
            raise EngineLostError(f"the vllm engine died: {self._llm.dead_error}")
        now = time.monotonic()
        if self._probe is None or self._probe.done():
            self._probe, self._probed_at = asyncio.create_task(self._send_probe()), now
        elif now - self._probed_at > self._stall_s:
            self._guard.kill()  # from which vllm learns that it is dead, and everyone who waits with it
            raise EngineLostError(f"the vllm engine has not answered for {self._stall_s:g} s; its processes were ended")

    def close(self) -> None:
        from vllm.utils.async_utils import cancel_task_threadsafe

        if self._probe is not None:
            cancel_task_threadsafe(self._probe)
        self._llm.shutdown()
        self._guard.close()

    async def _send_probe(self) -> None:
        """Ask something, anything, of the process that steps the engine: it answers between two steps."""
        from vllm.v1.engine.exceptions import EngineDeadError

        with suppress(EngineDeadError):  # which `errored` says too
            await self._llm.is_sleeping()


class VLLMEngine(_VLLMBase, ThreadedEngine):
    """vllm's LLMEngine, stepped by a thread of this process; usable from any event loop."""

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._llm: Any = None
        self._running: dict[str, EngineRequest] = {}
        self._start_engine(partial(self._load_weights, config.threads), config.stall_s)

    def _load_weights(self, threads: int | None) -> None:
        from vllm.engine.arg_utils import EngineArgs
        from vllm.v1.engine.llm_engine import LLMEngine

        if threads:  # OpenMP read its variable when torch was imported, and counts for each thread that computes
            set_num_threads(threads)
        self._llm = LLMEngine.from_engine_args(EngineArgs(**self.engine_args))

    def _run_step(self, new: list[EngineRequest]) -> bool:
        from vllm.exceptions import VLLMClientError

        while new:
            request = new[0]  # taken out when it is kept elsewhere: whatever happens, it is not forgotten
            name = str(next(self._ids))
            try:
                prompt = build_prompt(request.prompt, request.media, self._placeholders, self.max_model_len)
                self._llm.add_request(name, prompt, self._build_params(request.sampling), lora_request=self._adapter)
            except JudgeError as e:  # a request that is refused is its caller's error, not the engine's end
                request.resolve(e)
            except (ValueError, VLLMClientError) as e:
                request.resolve(_build_usage_error(e))
            else:
                self._running[name] = request
            new.pop(0)
        for output in self._llm.step():
            if output.finished:
                request = self._running.pop(output.request_id)
                request.resolve(self._build_generation(output, request.sampling))
        given_up = [name for name, request in self._running.items() if request.is_cancelled]
        if given_up:
            self._llm.abort_request(given_up)
            for name in given_up:
                del self._running[name]
        return bool(self._running)

    def _list_pending(self) -> list[EngineRequest]:
        return list(self._running.values())

    def _free_model(self) -> None:
        if self._llm is not None:
            self._llm.engine_core.shutdown()
            self._llm = None
