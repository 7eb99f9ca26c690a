"""n samples of a prompt: our policy, whose requests share the prompt's prefill, against requests that share nothing.

The policy asks for n samples as n requests at once, of which the engine computes the prompt once. The other side is the
same work with a salt of a few tokens before every request, so that no request shares its beginning with another. Both
sides carry a salt of the same length and run in the same engine, one after the other, several times.

The sizes are those of someone who picks the best of 16: a question with its instructions, some examples or a page of
text to be answered from (some 550 tokens), and an answer of a paragraph (64 tokens at most).
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.experiments.commands.bench.logged import Log, LoggedEngine, count_cacheable_tokens
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_sentence
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig, Generation, Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.types import Message
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

GOAL = 2.4
"""Time without sharing over time with it: at least."""
CACHED_GOAL = 0.99
"""Cached tokens over the most that whole blocks allow: at least."""
SALT = 8  # tokens
SIDES = ("shared", "nothing shared")


@settings_class
class SamplingConfig:
    """Settings of the bench."""

    model: str = setting("smollm2-135m", "Policy model: embedded name, folder or hub id", metavar="MODEL")
    prompts: PositiveInt = setting(2, "Number of prompts sampled at the same time", metavar="N")
    samples: Annotated[int, Ge(2)] = setting(16, "Number of samples per prompt", metavar="N")
    prompt_words: PositiveInt = setting(500, "Length of a prompt in words (about one token each)", metavar="N")
    max_tokens: PositiveInt = setting(64, "Maximum length of a sample in tokens", metavar="N")
    temperature: Annotated[float, Ge(0.01)] = setting(1.0, "Sampling temperature", metavar="T")
    repeats: PositiveInt = setting(2, "Number of runs of each side", metavar="N")
    seed: NonNegativeInt = setting(0, "Seed of prompts and samples", metavar="N")


def run(config: SamplingConfig) -> BenchResult:
    """Measure with the vllm engine."""
    engine: Any = load_engine(EngineConfig(config.model, "vllm"))
    try:
        return measure_sampling(config, engine, engine.block_size)
    finally:
        engine.close()


def measure_sampling(config: SamplingConfig, engine: Engine, block: int) -> BenchResult:
    """Measure with an engine whose prefix cache has blocks of so many tokens."""
    salting = _SampleSaltEngine(engine)
    policy = EnginePolicy(salting)
    salting.start_run("shared")
    _sample_prompts(policy, config, _make_prompts(config, "warm-up")[:1])
    sides: dict[str, list[_SamplingMeasurement]] = {side: [] for side in SIDES}
    for repeat in range(config.repeats):
        prompts = _make_prompts(config, str(repeat))
        for side in SIDES:
            salting.start_run(side)
            start = time.perf_counter()
            samples = _sample_prompts(policy, config, prompts)
            sides[side].append(_SamplingMeasurement(time.perf_counter() - start, samples, salting.log))
    return _build_result(config, sides, block)


def _sample_prompts(policy: EnginePolicy, config: SamplingConfig, prompts: Sequence[str]) -> list[Completion]:
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)

    async def sample_all() -> list[list[Completion]]:
        messages = [[Message("user", prompt)] for prompt in prompts]
        return await asyncio.gather(*(policy.sample(m, sampling, range(config.samples)) for m in messages))

    return [sample for samples in asyncio.run(sample_all()) for sample in samples]


def _make_prompts(config: SamplingConfig, name: str) -> list[str]:
    rng = random.Random(f"{config.seed}-{name}")
    return [
        f"Tell a long story out of these words: {make_sentence(config.prompt_words, rng)}"
        for _ in range(config.prompts)
    ]


@dataclass
class _SamplingMeasurement:
    """One run of one side."""

    seconds: float
    samples: list[Completion]
    log: Log

    @property
    def prompt_tokens(self) -> int:
        return sum(generation.prompt_tokens for _, _, generation in self.log)

    @property
    def cached_tokens(self) -> int:
        return sum(generation.cached_tokens for _, _, generation in self.log)

    @property
    def generated_tokens(self) -> int:
        return sum(sample.tokens for sample in self.samples)


def _build_result(
    config: SamplingConfig, sides: Mapping[str, Sequence[_SamplingMeasurement]], block: int
) -> BenchResult:
    ours, salted = (sides[side] for side in SIDES)
    seconds = [statistics.median(run.seconds for run in runs) for runs in (ours, salted)]
    ratio = seconds[1] / seconds[0]
    cached, possible = (
        sum(run.cached_tokens for run in ours),
        sum(count_cacheable_tokens(run.log, block) for run in ours),
    )
    if not possible:
        raise UsageError(f"a prompt has no block of {block} tokens to share; raise --prompt-words")
    share = cached / possible
    return BenchResult(
        "sampling",
        round(ratio, 3),
        GOAL,
        ratio >= GOAL and share >= CACHED_GOAL,
        {
            "samples": config.samples,
            "prompts_at_a_time": config.prompts,
            "tokens_of_a_prompt": round(ours[0].prompt_tokens / len(ours[0].log)),
            "most_tokens_of_a_sample": config.max_tokens,
            "mean_tokens_of_a_sample": round(statistics.mean(s.tokens for run in ours for s in run.samples), 1),
            "mean_tokens_of_a_sample_salted": round(statistics.mean(s.tokens for r in salted for s in r.samples), 1),
            "samples_per_second": round(len(ours[0].samples) / seconds[0], 2),
            "samples_per_second_salted": round(len(ours[0].samples) / seconds[1], 2),
            "cached_of_possible": round(share, 4),
            "cached_goal": CACHED_GOAL,
            "cached_of_prompt_tokens": round(cached / sum(run.prompt_tokens for run in ours), 3),
            "cached_of_prompt_tokens_salted": round(
                sum(run.cached_tokens for run in salted) / sum(run.prompt_tokens for run in salted), 3
            ),
            "block_tokens": block,
            "runs": [
                {
                    "side": side,
                    "seconds": round(run.seconds, 2),
                    "cached": run.cached_tokens,
                    "generated": run.generated_tokens,
                }
                for runs in zip(*sides.values(), strict=True)
                for side, run in zip(sides, runs, strict=True)
            ],
        },
    )


class _SampleSaltEngine(LoggedEngine):
    """An engine that puts a salt before every prompt: the same for all of a run, or another one for each."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        encoded = [self.tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(10)]
        self._digits = [ids[-1] for ids in encoded]
        self._side, self._runs = SIDES[0], 0

    def start_run(self, side: str) -> None:
        """Start a run, of which no request shares anything with an earlier run."""
        self._side, self.log, self._runs = side, [], self._runs + 1

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        number = f"{self._runs:03}{len(self.log) if self._side == 'nothing shared' else 0:0{SALT - 3}}"
        salt = [self._digits[int(digit)] for digit in number]
        return await super().generate([*salt, *prompt_token_ids], sampling, media)
