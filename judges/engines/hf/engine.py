"""Transformers engine: groups requests into left-padded batches, media included; runs wherever torch does."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from traceback import clear_frames
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    StoppingCriteriaList,
)

from flex_judge.judges.engines.adapters import AdaptedEngine, Adapter
from flex_judge.judges.engines.base import Engine, EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.hardware import choose_dtype, count_cuda_devices
from flex_judge.judges.engines.hf.adapters import ModelAdapters
from flex_judge.judges.engines.hf.media import EncodedPrompt, MediaEncoder, collate_prompts
from flex_judge.judges.engines.hf.sampling import CancelledRows, LogprobRecorder, RowSampler
from flex_judge.judges.engines.sleep import EngineSleeper
from flex_judge.judges.engines.threaded import EngineCall, EngineRequest, ThreadedEngine
from flex_judge.judges.errors import AdapterError, EngineLostError, GenerationError, JudgeError, UsageError, to_one_line
from flex_judge.judges.models.adapters import check_adapter
from flex_judge.judges.models.checkpoints import Checkpoint, open_checkpoint

log = logging.getLogger(__name__)


def load(config: EngineConfig) -> HFEngine:
    """Load a model into the transformers engine.

    Raises:
        UsageError: the configuration asks for several GPUs.
    """
    if config.tensor_parallel > 1:
        raise UsageError(
            f"tensor_parallel: got {config.tensor_parallel}, but transformers runs on one GPU; use engine vllm"
        )
    return HFEngine(config)


@dataclass(frozen=True)
class _EncodedRequest:
    """Request with its prompt encoded for the model."""

    request: EngineRequest
    prompt: EncodedPrompt
    batch_key: tuple[Sampling, str | None]
    """Sampling without sample index and seed, and adapter. Requests with equal keys can share a batch."""


class HFEngine(ThreadedEngine):
    """Engine that calls transformers' `generate` on batches of requests with equal sampling."""

    name = "transformers"

    def __init__(self, config: EngineConfig, model: Any = None) -> None:
        """Load a model, or wrap one that is already loaded.

        Args:
            config: engine configuration.
            model: a loaded model with the architecture of that checkpoint, for example one in training. It is used on
                its current device, computes in the thread that calls `serve_requests`, and stays loaded after `close`.
        """
        checkpoint = open_checkpoint(config.model, config.adapter)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model_id = checkpoint.model_id
        self.tokenizer = checkpoint.tokenizer
        self.profile = checkpoint.profile
        self.max_model_len = checkpoint.limit_context(config.max_model_len)
        self.device = "cuda" if count_cuda_devices() else "cpu"
        self._eos = checkpoint.stop_ids
        self.max_batch = config.max_batch
        self._max_adapter_rank = config.max_adapter_rank
        self._checkpoint = checkpoint
        self._waiting: list[_EncodedRequest] = []
        self._grammar = lru_cache(maxsize=64)(self._compile_grammar)
        torch.manual_seed(config.seed)
        # A model that is already loaded belongs to its owner, who computes with it between the requests.
        is_allowed = config.allow_sleep and model is None
        self.sleeper = EngineSleeper(self.name, self._sleep_model, self._wake_model, is_allowed)
        self._start_engine(partial(self._load_weights, checkpoint, config.dtype, model), start_thread=model is None)

    def _load_weights(self, checkpoint: Checkpoint, dtype: str, model: Any) -> None:
        if model is None:
            torch_dtype = getattr(torch, choose_dtype(dtype, on_gpu=self.device == "cuda"))
            self._adapters = ModelAdapters(checkpoint, torch_dtype, self._max_adapter_rank > 0)
            self._adapters.model.to(self.device)
        else:
            self.device = str(model.device)
            self._adapters = ModelAdapters(checkpoint, model.dtype, False, model)
        self._use_model()
        self._encoder = MediaEncoder(checkpoint, self.model.config, self.max_model_len)

    def _use_model(self) -> None:
        self.model: Any = self._adapters.model.eval()
        # Checkpoints ship sampling defaults, such as a repetition penalty. Only the request's parameters may apply.
        self.model.generation_config = GenerationConfig()

    async def _sleep_model(self, level: int) -> None:
        await self._call_in_thread(lambda: self._release_memory(level))

    def _release_memory(self, level: int) -> None:
        if level == 1:
            self.model.to("cpu")
        else:
            self._free_model()
        gc.collect()  # modules refer to each other
        torch.cuda.empty_cache()  # does nothing without a GPU

    async def _wake_model(self, level: int) -> None:
        await self._call_in_thread(lambda: self._restore_model(level))

    def _restore_model(self, level: int) -> None:
        if level == 2:
            self._adapters.reload()
        self._adapters.model.to(self.device)
        self._use_model()

    async def load_adapter(self, adapter: Adapter) -> Engine:
        """Load an adapter next to the others, see `AdapterHost.load_adapter`."""
        if not self._adapters.can_change:
            raise AdapterError(f"adapter {adapter.name!r}: the engine was started without max_adapter_rank; set it")
        checkpoint = self._checkpoint.with_adapter(adapter.folder, adapter.identity)
        try:
            await asyncio.to_thread(check_adapter, checkpoint)
            name = await self._call_in_thread(lambda: self._adapters.add(checkpoint))
        except EngineLostError:
            raise
        except Exception as e:  # whatever is wrong with the files concerns this adapter only
            raise AdapterError(f"adapter {adapter.name!r}: cannot be loaded: {to_one_line(e)[:300]}") from e
        return AdaptedEngine(self, name, checkpoint.model_id, lambda: self._free_adapter(name))

    def _free_adapter(self, name: str) -> None:
        with suppress(EngineLostError):  # its memory is free already
            self._enqueue(EngineCall(lambda: self._adapters.remove(name)))

    def _run_step(self, new: list[EngineRequest]) -> bool:
        while new:
            # The request leaves `new` only after it is stored or resolved, so that an error here cannot lose it.
            request = new[0]
            try:
                prompt = self._encoder.encode_prompt(request.prompt, request.media)
            except JudgeError as e:  # an invalid prompt or medium is the caller's error, not the engine's end
                request.resolve(e)
            except Exception as e:  # noqa: BLE001 - costs this request, not the others
                request.resolve(_build_generation_error(e))
            else:
                batch_key = replace(request.sampling, sample_index=0, seed=None), request.adapter
                self._waiting.append(_EncodedRequest(request, prompt, batch_key))
            new.pop(0)
        self._waiting = [item for item in self._waiting if not item.request.is_cancelled]
        if self._waiting:
            # The batch is built around the oldest request, so that no sampling waits forever.
            batch_key = self._waiting[0].batch_key
            batch = [item for item in self._waiting if item.batch_key == batch_key][: self.max_batch]
            self._compute_batch(batch)
        return bool(self._waiting)

    def _compute_batch(self, batch: list[_EncodedRequest]) -> None:
        """Compute requests and resolve them. If the batch fails, each is computed alone, so that only one may fail.

        Raises:
            Exception: a request failed and a plain one fails too; the engine is at fault, for example a broken GPU.
        """
        (batch_key, adapter), seeds = batch[0].batch_key, [item.request.sampling.seed for item in batch]
        results: Sequence[Generation | Exception]
        try:
            cancelled_rows = CancelledRows([item.request for item in batch], one_by_one=not batch_key.regex)
            self._adapters.activate(adapter)
            results = self._generate_batch([item.prompt for item in batch], batch_key, seeds, cancelled_rows)
        except Exception as e:  # noqa: BLE001 - costs its request, not the others
            clear_frames(e.__traceback__)  # frees the memory of the failed batch
            self._compute_plain_request()  # if this works, the requests are at fault, and not the engine
            if len(batch) > 1:
                for item in batch:
                    self._compute_batch([item])
                return
            results = [e if isinstance(e, JudgeError) else _build_generation_error(e)]
        for item, result in zip(batch, results, strict=True):
            self._waiting.remove(item)
            item.request.resolve(result)

    def _compute_plain_request(self) -> None:
        """Generate one token for the shortest prompt; raise an error if the engine cannot even do this."""
        request = EngineRequest([min(self._eos)], Sampling(max_tokens=1))
        prompts = [self._encoder.encode_prompt(request.prompt, ())]
        self._generate_batch(prompts, request.sampling, [None], CancelledRows([request], one_by_one=True))

    def _list_pending(self) -> list[EngineRequest]:
        return [item.request for item in self._waiting]

    def _free_model(self) -> None:
        self.model = None
        self._adapters.discard()

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _generate_batch(
        self,
        prompts: list[EncodedPrompt],
        sampling: Sampling,
        seeds: Sequence[int | None],
        cancelled_rows: CancelledRows,
    ) -> list[Generation]:
        # Finished rows are padded with an end-of-turn token, the only token that a completed grammar accepts.
        pad = min(self._eos)
        inputs = collate_prompts(prompts, pad, self.device)
        # Order matters: grammar mask first, then the recorder, then temperature, top-p and sampling.
        processors = LogitsProcessorList()
        if sampling.regex:
            from xgrammar.contrib.hf import LogitsProcessor as GrammarProcessor

            processors.append(GrammarProcessor(self._grammar(sampling.regex)))
        recorder = LogprobRecorder(sampling.logprob_token_ids)
        if sampling.logprob_token_ids:
            processors.append(recorder)
        if sampling.temperature > 0:
            processors.append(RowSampler(sampling.temperature, sampling.top_p, seeds, self.device))
        output = self.model.generate(
            **inputs,
            max_new_tokens=sampling.max_tokens,
            stop_strings=list(sampling.stop) or None,
            tokenizer=self.tokenizer if sampling.stop else None,
            logits_processor=processors,
            stopping_criteria=StoppingCriteriaList([cancelled_rows]),
            eos_token_id=sorted(self._eos),
            pad_token_id=pad,
            # A generated placeholder token would stand for a medium once the reply is part of the next prompt.
            suppress_tokens=sorted(self._encoder.placeholders.ids.values()) or None,
            do_sample=False,  # with a RowSampler, the argmax is a sample
        )
        replies = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._build_generation(prompt, reply, sampling, recorder.get_logprobs(i))
            for i, (prompt, reply) in enumerate(zip(prompts, replies, strict=True))
        ]

    def _build_generation(
        self, prompt: EncodedPrompt, reply: list[int], sampling: Sampling, logprobs: list[dict[int, float]]
    ) -> Generation:
        """Cut one reply of a batch at its end; the tokens after it are padding."""
        ends = [i for i, token in enumerate(reply) if token in self._eos]
        ids = reply[: ends[0]] if ends else reply
        reason: FinishReason = "eos" if ends else "length"
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if any(s in text for s in sampling.stop):
            reason = "stop"  # the end-of-turn token after a stop string is padding
        return Generation(text, tuple(ids), reason, tuple(logprobs[: len(ids)]), prompt_tokens=len(prompt.token_ids))

    def _compile_grammar(self, regex: str) -> Any:
        import xgrammar

        vocab_size = self.model.config.get_text_config().vocab_size
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.tokenizer, vocab_size=vocab_size, stop_token_ids=sorted(self._eos)
        )
        return xgrammar.GrammarCompiler(info).compile_regex(regex)


def _build_generation_error(error: Exception) -> GenerationError:
    log.error("a request failed", exc_info=error)
    return GenerationError(f"the engine failed to compute this comparison: {type(error).__name__}: {error!s:.300}")
