"""The transformers engine: batches by itself, left-padded; runs wherever torch does."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor, LogitsProcessorList

from judges.engines.base import EngineConfig, FinishReason, Generation, Sampling
from judges.engines.threaded import Request, ThreadedEngine
from judges.hardware import best_dtype, cuda_device_count
from judges.models import fingerprint, resolve_model


def load(config: EngineConfig) -> HFEngine:
    return HFEngine(config)


class HFEngine(ThreadedEngine):
    """`generate` of transformers, over batches of requests that are sampled alike."""

    name = "transformers"

    def __init__(self, config: EngineConfig) -> None:
        path = resolve_model(config.model)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.model_id = f"{config.model}@{fingerprint(path)}"
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.device = "cuda" if cuda_device_count() else "cpu"
        dtype = getattr(torch, best_dtype(config.dtype, on_gpu=self.device == "cuda"))
        self.model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(self.device).eval()
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        self.max_model_len = min(config.max_model_len, limit or config.max_model_len)
        eos = self.model.generation_config.eos_token_id
        self._eos = {*(eos if isinstance(eos, list) else [eos]), self.tokenizer.eos_token_id} - {None}
        self._max_batch = config.max_batch
        self._waiting: list[Request] = []
        self._grammar = lru_cache(maxsize=64)(self._compile_grammar)
        torch.manual_seed(config.seed)
        self._start()

    def _work(self, new: list[Request]) -> bool:
        self._waiting += new
        new.clear()
        self._waiting = [r for r in self._waiting if not r.given_up]
        if self._waiting:
            sampling = self._waiting[0].sampling
            batch = [r for r in self._waiting if r.sampling == sampling][: self._max_batch]
            generations = self._generate_batch([r.prompt for r in batch], sampling)
            for request, generation in zip(batch, generations, strict=True):
                self._waiting.remove(request)
                request.resolve(generation)
        return bool(self._waiting)

    def _unfinished(self) -> list[Request]:
        return self._waiting

    def _free(self) -> None:
        self.model = None

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _generate_batch(self, prompts: list[list[int]], sampling: Sampling) -> list[Generation]:
        width = max(map(len, prompts))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else min(self._eos)
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        processors = LogitsProcessorList()
        if sampling.regex:
            from xgrammar.contrib.hf import LogitsProcessor as GrammarProcessor

            processors.append(GrammarProcessor(self._grammar(sampling.regex)))
        recorder = _LogprobRecorder(sampling.logprob_token_ids)
        if sampling.logprob_token_ids:
            processors.append(recorder)
        greedy: dict[str, Any] = {"do_sample": False}
        drawn: dict[str, Any] = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": 0,
        }
        output = self.model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=sampling.max_tokens,
            stop_strings=list(sampling.stop) or None,
            tokenizer=self.tokenizer if sampling.stop else None,
            logits_processor=processors,
            eos_token_id=sorted(self._eos),
            pad_token_id=pad,
            **(drawn if sampling.temperature > 0 else greedy),
        )
        rows = output[:, width:].tolist()
        return [
            self._generation(p, row, pad, sampling, recorder.row(i))
            for i, (p, row) in enumerate(zip(prompts, rows, strict=True))
        ]

    def _generation(
        self, prompt: list[int], row: list[int], pad: int, sampling: Sampling, logprobs: list[dict[int, float]]
    ) -> Generation:
        """One row of a batch, cut where this request ended; what follows there is padding."""
        ends = [i for i, token in enumerate(row) if token in self._eos or token == pad]
        ids = row[: ends[0]] if ends else row
        reason: FinishReason = "eos" if ends else "length"
        text = self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if any(s in text for s in sampling.stop):
            reason = "stop"  # what follows a stop string in the row is padding, not an end of turn
        return Generation(text, tuple(ids), reason, tuple(logprobs[: len(ids)]), prompt_tokens=len(prompt))

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

    def row(self, index: int) -> list[dict[int, float]]:
        return [dict(zip(self.token_ids, step[index].tolist(), strict=True)) for step in self.steps]
