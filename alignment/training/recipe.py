"""What the training commands share: which data, which held-out prompts, which judge; TRL has the rest of the settings.

Plain fields, as transformers' parser of dataclasses wants them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from alignment.preferences import prompt_digest
from alignment.prompts import Columns, read_prompts
from alignment.rows import PromptRow
from alignment.sources import Source, open_source
from alignment.tasks import arithmetic
from alignment.training.measuring import HeldOut
from judges import EngineConfig, JudgeConfig, JudgeSettings
from judges.engines import Sampling
from judges.errors import UsageError
from judges.models import EMBEDDED

HELD_OUT_SEED = 1_000_003
"""Of the embedded task's questions that policies are measured on; runs that make data use small ones."""
AHEAD = 64
"""Rows read at a time in search of held-out prompts."""


def _flag(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass
class Recipe:
    """Settings of a training run that are not TRL's."""

    eval_file: str | None = _flag(
        None, "Held-out prompts: .jsonl, .parquet or hub:OWNER/NAME[@SPLIT]; none: the embedded arithmetic task."
    )
    eval_prompts: int = _flag(100, "How many of them. Prompts that are trained on are passed over; 0: do not measure.")
    eval_answer: str | None = _flag(None, "Column of eval_file with the number that is the right answer.")
    eval_samples: int = _flag(4, "Answers sampled to each, before and after.")
    eval_temperature: float = _flag(0.8, "Temperature of these answers.")
    eval_tokens: int = _flag(40, "Most tokens of such an answer.")
    eval_engine: str = _flag("auto", "What runs policy and judge when they are measured: vllm, transformers.")
    judge: str = _flag("smollm2-135m", "The judge: embedded name, folder or hub id.")
    judge_adapter: str | None = _flag(None, "LoRA adapter on the judge: folder or hub id.")
    judge_url: str | None = _flag(None, "Address of a running `flex-judge serve` to ask instead.")
    judge_think_tokens: int | None = _flag(None, "Budget of the judge's thinking (4096; of an embedded judge 48).")
    judge_temperature: float = _flag(0.0, "Of the judge's sampling; 0 is greedy.")
    rubric: str | None = _flag(None, "Rubric (general; of the embedded task: correctness).")

    def __post_init__(self) -> None:
        for name, least in (("eval_prompts", 0), ("eval_samples", 1), ("eval_tokens", 1)):
            if getattr(self, name) < least:
                raise UsageError(f"--{name} must be at least {least}, not {getattr(self, name)}")
        if self.eval_temperature <= 0 and self.eval_samples > 1:
            raise UsageError("--eval_temperature must be above 0 where --eval_samples is above 1")

    @property
    def judging_rubric(self) -> str:
        return self.rubric or ("correctness" if self.eval_file is None else "general")

    @property
    def judge_config(self) -> JudgeConfig:
        budget = self.judge_think_tokens or (48 if self.judge in EMBEDDED else 4096)
        settings = JudgeSettings(max_think_tokens=budget, temperature=self.judge_temperature)
        return JudgeConfig(EngineConfig(self.judge, self.eval_engine, adapter=self.judge_adapter), settings)

    def held_out(self, trained: frozenset[str], seed: int) -> HeldOut | None:
        """The prompts to measure on; None where none are wanted.

        Args:
            trained: digests of the prompts that are trained on, see `prompt_digest`.

        Raises:
            UsageError: a row is no prompt, or there are none that are not trained on.
        """
        if not self.eval_prompts:
            return None
        embedded = self.eval_file is None
        answer = "answer" if embedded else self.eval_answer
        source: Source
        if self.eval_file is None:
            source = arithmetic.Questions(min(2 * self.eval_prompts + 100, 600), HELD_OUT_SEED)
        else:
            source = open_source(self.eval_file)
        found = tuple(islice(_others(source, Columns(keep=(answer,) if answer else ()), trained), self.eval_prompts))
        stop = arithmetic.STOP if embedded else ()
        sampling = Sampling(self.eval_tokens, self.eval_temperature, 0.95, stop, seed=seed)
        return HeldOut(found, sampling, self.eval_samples, self.judging_rubric, answer)

    def told(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _others(source: Source, columns: Columns, trained: frozenset[str]) -> Any:
    """The prompts of a source that are not trained on."""
    for start in range(0, len(source), AHEAD):
        for row in read_prompts(source, start, start + AHEAD, columns):
            if isinstance(row, UsageError):
                raise row
            if prompt_digest(row.prompt) not in trained:
                yield row


def digests_of(rows: Sequence[PromptRow]) -> frozenset[str]:
    """Digests of prompts, by which those that are trained on are told from others."""
    return frozenset(prompt_digest(row.prompt) for row in rows)
