"""Transformers engine: groups requests into left-padded batches, media included; runs wherever torch does."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from traceback import clear_frames
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from flex_judge.judges.engines.base import EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.hardware import choose_dtype, count_cuda_devices
from flex_judge.judges.engines.hf.media import EncodedPrompt, MediaEncoder, collate_prompts
from flex_judge.judges.engines.threaded import EngineRequest, ThreadedEngine
from flex_judge.judges.errors import GenerationError, JudgeError, UsageError
from flex_judge.judges.models.adapters import check_adapter, resolve_architecture
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
    batch_key: Sampling
    """Sampling without sample index and seed. Requests with equal keys can share a batch."""


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
        self._waiting: list[_EncodedRequest] = []
        self._grammar = lru_cache(maxsize=64)(self._compile_grammar)
        torch.manual_seed(config.seed)
        self._start_engine(partial(self._load_weights, checkpoint, config.dtype, model), start_thread=model is None)

    def _load_weights(self, checkpoint: Checkpoint, dtype: str, model: Any) -> None:
        if model is None:
            torch_dtype = getattr(torch, choose_dtype(dtype, on_gpu=self.device == "cuda"))
            model = _load_model(checkpoint, torch_dtype).to(self.device)
        else:
            self.device = str(model.device)
        self.model: Any = model.eval()
        # Checkpoints ship sampling defaults, such as a repetition penalty. Only the request's parameters may apply.
        self.model.generation_config = GenerationConfig()
        self._encoder = MediaEncoder(checkpoint, self.model.config, self.max_model_len)

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
                batch_key = replace(request.sampling, sample_index=0, seed=None)
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
        batch_key, seeds = batch[0].batch_key, [item.request.sampling.seed for item in batch]
        results: Sequence[Generation | Exception]
        try:
            cancelled_rows = CancelledRows([item.request for item in batch], one_by_one=not batch_key.regex)
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
        recorder = _LogprobRecorder(sampling.logprob_token_ids)
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


class _LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Record log-probabilities of selected tokens at each step, after the grammar mask and before temperature."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)
        self.steps: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(torch.log_softmax(scores.float(), dim=-1)[:, self.token_ids].cpu())
        return scores

    def get_logprobs(self, row: int) -> list[dict[int, float]]:
        return [dict(zip(self.token_ids, step[row].tolist(), strict=True)) for step in self.steps]


def _build_generation_error(error: Exception) -> GenerationError:
    log.error("a request failed", exc_info=error)
    return GenerationError(f"the engine failed to compute this comparison: {type(error).__name__}: {error!s:.300}")


def _load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """Load the text-generating model with its adapter, if any."""
    check_adapter(checkpoint)
    model = resolve_architecture(checkpoint).from_pretrained(checkpoint.path, dtype=dtype)
    if checkpoint.adapter is None:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, checkpoint.adapter)
    # A merged adapter costs no time, but half-precision weights would round much of its small change away.
    return adapted.merge_and_unload() if dtype == torch.float32 else adapted.get_base_model()


class CancelledRows(StoppingCriteria):  # type: ignore[misc]
    """End the rows of a batch whose requests were cancelled, so that no tokens are generated for nobody."""

    def __init__(self, requests: Sequence[EngineRequest], one_by_one: bool) -> None:
        """Watch the requests of a batch.

        Args:
            requests: the request of each row.
            one_by_one: end each cancelled row, or only all rows together. A grammar does not accept the padding of a
                row that was ended before its end.
        """
        self._requests = tuple(requests)
        self._one_by_one = one_by_one

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:  # noqa: ARG002
        """Return a mask of the rows to end."""
        cancelled = [request.is_cancelled for request in self._requests]
        if not self._one_by_one:
            cancelled = [all(cancelled)] * len(cancelled)
        return torch.tensor(cancelled, dtype=torch.bool, device=input_ids.device)


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Sample each row with its own seed by adding Gumbel noise, so that the argmax is a sample.

    Must be the last processor. It makes a seeded request independent of the other rows of its batch, which
    transformers' own sampling is not.
    """

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int | None], device: str) -> None:
        """Create the noise generators.

        Args:
            temperature: above 0.
            top_p: above 0, at most 1.
            seeds: seed of each row; None uses torch's global generator.
            device: device of the scores. The same seed gives different samples on different kinds of devices.
        """
        self._warpers = LogitsProcessorList()
        if temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [None if seed is None else torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add Gumbel noise to the warped scores."""
        scores = self._warpers(input_ids, scores).float()
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)  # -log of an exponential variable has a Gumbel distribution
        return scores - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
