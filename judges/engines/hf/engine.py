"""The transformers engine: batches by itself, left-padded, media and all; runs wherever torch does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from flex_judge.judges.engines.base import EngineConfig, FinishReason, Generation, Sampling
from flex_judge.judges.engines.hf.media import EncodedPrompt, MediaEncoder, collate_prompts
from flex_judge.judges.engines.threaded import EngineRequest, ThreadedEngine
from flex_judge.judges.errors import JudgeError, UsageError
from flex_judge.judges.hardware import choose_dtype, count_cuda_devices
from flex_judge.judges.models.adapters import check_adapter, resolve_architecture
from flex_judge.judges.models.checkpoints import Checkpoint, open_checkpoint


def load(config: EngineConfig) -> HFEngine:
    if config.tensor_parallel > 1:
        raise UsageError(f"tensor_parallel {config.tensor_parallel} takes engine vllm: transformers runs on one GPU")
    return HFEngine(config)


@dataclass(frozen=True)
class _EncodedRequest:
    """A request with its prompt expanded."""

    request: EngineRequest
    row: EncodedPrompt
    sampling: Sampling
    """What it can share a batch with: the request's, but for the number of the draw and its seed."""


class HFEngine(ThreadedEngine):
    """`generate` of transformers, over batches of requests that are sampled alike."""

    name = "transformers"

    def __init__(self, config: EngineConfig, model: Any = None) -> None:
        """Args:
        config: what to load.
        model: take this one, which has that checkpoint's form, as it is and where it is: one that is being
            trained, say. It computes in the thread that calls `compute`, and stays when the engine is closed.
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
        self._start_engine(partial(self._load_weights, checkpoint, config.dtype, model), here=model is not None)

    def _load_weights(self, checkpoint: Checkpoint, dtype: str, model: Any) -> None:
        if model is None:
            best = getattr(torch, choose_dtype(dtype, on_gpu=self.device == "cuda"))
            model = _load_model(checkpoint, best).to(self.device)
        else:
            self.device = str(model.device)
        self.model: Any = model.eval()
        # Checkpoints bring sampling habits (a repetition penalty, say) that nobody asked for here.
        self.model.generation_config = GenerationConfig()
        self._encoder = MediaEncoder(checkpoint, self.model.config, self.max_model_len)

    def _run_step(self, new: list[EngineRequest]) -> bool:
        while new:
            request = new[0]  # taken out when it is kept elsewhere: whatever happens, it is not forgotten
            try:
                row = self._encoder.encode_prompt(request.prompt, request.media)
            except JudgeError as e:  # a prompt or medium that cannot be taken is its caller's error
                request.resolve(e)
            else:
                self._waiting.append(
                    _EncodedRequest(request, row, replace(request.sampling, sample_index=0, seed=None))
                )
            new.pop(0)
        self._waiting = [job for job in self._waiting if not job.request.is_cancelled]
        if self._waiting:
            sampling = self._waiting[0].sampling
            jobs = [job for job in self._waiting if job.sampling == sampling][: self.max_batch]
            seeds = [job.request.sampling.seed for job in jobs]
            generations = self._generate_batch([job.row for job in jobs], sampling, seeds)
            for job, generation in zip(jobs, generations, strict=True):
                self._waiting.remove(job)
                job.request.resolve(generation)
        return bool(self._waiting)

    def _list_pending(self) -> list[EngineRequest]:
        return [job.request for job in self._waiting]

    def _free_model(self) -> None:
        self.model = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _generate_batch(
        self, rows: list[EncodedPrompt], sampling: Sampling, seeds: Sequence[int | None]
    ) -> list[Generation]:
        # Finished rows are padded while others go on, and a grammar takes nothing after its end but an end of turn.
        pad = min(self._eos)
        inputs = collate_prompts(rows, pad, self.device)
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
            eos_token_id=sorted(self._eos),
            pad_token_id=pad,
            # A pad that the model wrote would stand for a medium when the reply becomes part of the next prompt.
            suppress_tokens=sorted(self._encoder.placeholders.ids.values()) or None,
            do_sample=False,  # the greatest score is a draw where there is a sampler
        )
        replies = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._build_generation(row, reply, sampling, recorder.get_logprobs(i))
            for i, (row, reply) in enumerate(zip(rows, replies, strict=True))
        ]

    def _build_generation(
        self, row: EncodedPrompt, reply: list[int], sampling: Sampling, logprobs: list[dict[int, float]]
    ) -> Generation:
        """One reply of a batch, cut where this request ended; what follows there is padding."""
        ends = [i for i, token in enumerate(reply) if token in self._eos]
        ids = reply[: ends[0]] if ends else reply
        reason: FinishReason = "eos" if ends else "length"
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if any(s in text for s in sampling.stop):
            reason = "stop"  # what follows a stop string in the reply is padding, not an end of turn
        return Generation(text, tuple(ids), reason, tuple(logprobs[: len(ids)]), prompt_tokens=len(row.token_ids))

    def _compile_grammar(self, regex: str) -> Any:
        import xgrammar

        vocab_size = self.model.config.get_text_config().vocab_size
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.tokenizer, vocab_size=vocab_size, stop_token_ids=sorted(self._eos)
        )
        return xgrammar.GrammarCompiler(info).compile_regex(regex)


class _LogprobRecorder(LogitsProcessor):  # type: ignore[misc]
    """Notes the log-probabilities of some tokens at each step, after any grammar and before temperature."""

    def __init__(self, token_ids: Sequence[int]) -> None:
        self.token_ids = list(token_ids)
        self.steps: list[torch.Tensor] = []

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.steps.append(torch.log_softmax(scores.float(), dim=-1)[:, self.token_ids].cpu())
        return scores

    def get_logprobs(self, index: int) -> list[dict[int, float]]:
        return [dict(zip(self.token_ids, step[index].tolist(), strict=True)) for step in self.steps]


def _load_model(checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """The model that generates text, with its adapter if it has one."""
    check_adapter(checkpoint)
    model = resolve_architecture(checkpoint).from_pretrained(checkpoint.path, dtype=dtype)
    if checkpoint.adapter is None:
        return model
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(model, checkpoint.adapter)
    # Merged it costs nothing; but half-precision weights would round much of a small change away.
    return adapted.merge_and_unload() if dtype == torch.float32 else adapted.get_base_model()


class RowSampler(LogitsProcessor):  # type: ignore[misc]
    """Makes the greatest score of each row a draw from its distribution; to be the last of the processors."""

    def __init__(self, temperature: float, top_p: float, seeds: Sequence[int | None], device: str) -> None:
        """Args:
        temperature: above 0.
        top_p: above 0, at most 1.
        seeds: of the rows; None draws from torch's own generator.
        device: where the scores are. The same seed draws otherwise on another kind of device.
        """
        self._warpers = LogitsProcessorList()
        if temperature != 1:
            self._warpers.append(TemperatureLogitsWarper(float(temperature)))
        if top_p < 1:
            self._warpers.append(TopPLogitsWarper(top_p))
        self._generators = [None if seed is None else torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = self._warpers(input_ids, scores).float()
        noise = torch.empty_like(scores)
        for row, generator in zip(noise, self._generators, strict=True):
            row.exponential_(generator=generator)  # minus the logarithm of it has a Gumbel distribution
        return scores - noise.clamp_min_(torch.finfo(noise.dtype).tiny).log_()
