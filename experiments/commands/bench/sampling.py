"""N samples of a prompt: our policy, whose requests share the prompt's prefill, against requests that share nothing.

The policy submits N requests at once, and the engine computes their common prompt once. The baseline is the same work
with a different salt before every request, so no request shares a prefix with another. Both sides insert a salt of the
same length and run in the same engine in turn, several times.

The default sizes are typical of best-of-16: a question with instructions, examples or a page of context (about 550
tokens), and an answer of one paragraph (at most 64 tokens).
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
from flex_judge.experiments.commands.bench.logged import (
    SHARED,
    UNSHARED,
    Measurement,
    SaltedEngine,
    count_cacheable_tokens,
)
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_sentence
from flex_judge.experiments.common.flags import setting
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig, Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Message
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveInt, settings_class

GOAL = 2.4
"""Minimum of the time without a shared prefill over the time with it."""
CACHED_GOAL = 0.99
"""Minimum of the cached tokens over the maximum that whole blocks allow."""
SIDES = (SHARED, UNSHARED)


@settings_class
class SamplingConfig:
    """Settings of the sampling bench."""

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
    """Measure with an engine whose prefix cache has blocks of `block` tokens."""
    salted = SaltedEngine(engine)
    policy = EnginePolicy(salted)
    salted.start_run(SHARED)
    _sample_prompts(policy, config, _make_prompts(config, "warm-up")[:1])
    measurements: dict[str, list[_SamplingMeasurement]] = {side: [] for side in SIDES}
    for repeat in range(config.repeats):
        prompts = _make_prompts(config, str(repeat))
        for side in SIDES:
            salted.start_run(side)
            start = time.perf_counter()
            samples = _sample_prompts(policy, config, prompts)
            seconds = time.perf_counter() - start
            measurements[side].append(_SamplingMeasurement(seconds=seconds, log=salted.log, samples=samples))
    return _build_result(config, measurements, block)


def _sample_prompts(policy: EnginePolicy, config: SamplingConfig, prompts: Sequence[str]) -> list[Completion]:
    sampling = Sampling(config.max_tokens, config.temperature, seed=config.seed)

    async def sample_all() -> list[list[Completion]]:
        messages = [[Message("user", prompt)] for prompt in prompts]
        return await asyncio.gather(*(policy.sample(m, sampling, range(config.samples)) for m in messages))

    return [sample for samples in run_async(sample_all()) for sample in samples]


def _make_prompts(config: SamplingConfig, name: str) -> list[str]:
    rng = random.Random(f"{config.seed}-{name}")
    sentences = [make_sentence(config.prompt_words, rng) for _ in range(config.prompts)]
    return [f"Tell a long story out of these words: {sentence}" for sentence in sentences]


@dataclass(kw_only=True)
class _SamplingMeasurement(Measurement):
    """One run of one side, with its samples."""

    samples: list[Completion]

    @property
    def generated_tokens(self) -> int:
        """Tokens of all samples."""
        return sum(sample.tokens for sample in self.samples)


def _build_result(
    config: SamplingConfig, measurements: Mapping[str, Sequence[_SamplingMeasurement]], block: int
) -> BenchResult:
    shared, unshared = measurements[SHARED], measurements[UNSHARED]
    shared_s = statistics.median(run.seconds for run in shared)
    unshared_s = statistics.median(run.seconds for run in unshared)
    ratio = unshared_s / shared_s
    cached = sum(run.cached_tokens for run in shared)
    cacheable = sum(count_cacheable_tokens(run.log, block) for run in shared)
    if not cacheable:
        raise UsageError(f"a prompt has no block of {block} tokens to share; raise --prompt-words")
    cached_share = cached / cacheable
    unshared_prompt_tokens = sum(run.prompt_tokens for run in unshared)
    return BenchResult(
        name="sampling",
        ratio=round(ratio, 3),
        goal=GOAL,
        met=ratio >= GOAL and cached_share >= CACHED_GOAL,
        details={
            "samples": config.samples,
            "prompts_at_a_time": config.prompts,
            "tokens_of_a_prompt": round(shared[0].prompt_tokens / len(shared[0].log)),
            "most_tokens_of_a_sample": config.max_tokens,
            "mean_tokens_of_a_sample": _compute_mean_tokens(shared),
            "mean_tokens_of_a_sample_salted": _compute_mean_tokens(unshared),
            "samples_per_second": round(len(shared[0].samples) / shared_s, 2),
            "samples_per_second_salted": round(len(shared[0].samples) / unshared_s, 2),
            "cached_of_possible": round(cached_share, 4),
            "cached_goal": CACHED_GOAL,
            "cached_of_prompt_tokens": round(cached / sum(run.prompt_tokens for run in shared), 3),
            "cached_of_prompt_tokens_salted": round(
                sum(run.cached_tokens for run in unshared) / unshared_prompt_tokens, 3
            ),
            "block_tokens": block,
            "runs": [
                {
                    "side": side,
                    "seconds": round(run.seconds, 2),
                    "cached": run.cached_tokens,
                    "generated": run.generated_tokens,
                }
                for runs in zip(*measurements.values(), strict=True)
                for side, run in zip(measurements, runs, strict=True)
            ],
        },
    )


def _compute_mean_tokens(runs: Sequence[_SamplingMeasurement]) -> float:
    """Compute the mean length of the samples of all runs, in tokens."""
    return round(statistics.mean(sample.tokens for run in runs for sample in run.samples), 1)
