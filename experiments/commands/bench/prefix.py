"""Prefix reuse: judging groups of candidates with our prompt order, against prompts that share no prefix.

The prompt order is rubric, question, candidate, so an engine with a prefix cache computes everything before the
candidate once per question. The baseline judges the same work with a different salt before every request: no request
shares a prefix with another, not even the answer of a comparison with its own thinking. A third side uses one salt per
comparison, which allows that last reuse and so isolates the effect of the prompt order. All sides insert a salt of the
same length and run in the same engine in turn, several times.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.experiments.commands.bench.logged import (
    PER_COMPARISON,
    SHARED,
    UNSHARED,
    Measurement,
    SaltedEngine,
    count_cacheable_tokens,
)
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_comparisons
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class

GOAL = 1.9
"""Minimum of the time without prefix reuse over the time with it."""
CACHED_GOAL = 0.99
"""Minimum of the cached tokens over the maximum that whole blocks allow."""
SIDES = (SHARED, UNSHARED, PER_COMPARISON)


@settings_class
class PrefixConfig:
    """Settings of the prefix bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    questions: PositiveInt = setting(3, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    question_words: PositiveInt = setting(120, "Length of a question in words", metavar="N")
    candidate_words: PositiveInt = setting(80, "Length of a candidate in words", metavar="N")
    think: PositiveInt = setting(16, "Thinking budget in tokens", metavar="N")
    repeats: PositiveInt = setting(2, "Number of runs of each side", metavar="N")
    seed: int = setting(0, "Seed of the generated texts", metavar="N")


def run(config: PrefixConfig) -> BenchResult:
    """Measure with the vllm engine."""
    engine: Any = load_engine(EngineConfig(config.model, "vllm", max_model_len=2048))
    try:
        salted = SaltedEngine(engine)
        settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
        judge = FlexJudge(salted, settings)
        salted.start_run(SHARED)
        # Grammars are compiled on their first use, which must not count for the first side.
        judge.judge(_make_comparisons(config, random.Random("warm-up"))[:4])
        measurements: dict[str, list[Measurement]] = {side: [] for side in SIDES}
        for repeat in range(config.repeats):
            comparisons = _make_comparisons(config, random.Random(f"{config.seed}-{repeat}"))
            for side in SIDES:
                salted.start_run(side)
                start = time.perf_counter()
                judge.judge(comparisons)
                measurements[side].append(Measurement(seconds=time.perf_counter() - start, log=salted.log))
        block = int(engine.block_size)
    finally:
        engine.close()
    return _build_result(config, measurements, block)


def _build_result(config: PrefixConfig, measurements: Mapping[str, Sequence[Measurement]], block: int) -> BenchResult:
    shared, unshared = measurements[SHARED], measurements[UNSHARED]
    seconds = {side: statistics.median(run.seconds for run in runs) for side, runs in measurements.items()}
    ratio = seconds[UNSHARED] / seconds[SHARED]
    cached = sum(run.cached_tokens for run in shared)
    cacheable = sum(count_cacheable_tokens(run.log, block) for run in shared)
    if not cacheable:
        raise UsageError(f"no block of {block} tokens is shared, so there is nothing to measure; raise --candidates")
    cached_share = cached / cacheable
    unshared_prompt_tokens = sum(run.prompt_tokens for run in unshared)
    return BenchResult(
        name="prefix",
        ratio=round(ratio, 3),
        goal=GOAL,
        met=ratio >= GOAL and cached_share >= CACHED_GOAL,
        details={
            "cached_of_possible": round(cached_share, 4),
            "cached_goal": CACHED_GOAL,
            "cached_of_prompt_tokens": round(cached / sum(run.prompt_tokens for run in shared), 3),
            "cached_of_prompt_tokens_salted": round(
                sum(run.cached_tokens for run in unshared) / unshared_prompt_tokens, 3
            ),
            "ratio_of_prompt_order_alone": round(seconds[PER_COMPARISON] / seconds[SHARED], 3),
            "requests": len(shared[0].log),
            "prompt_tokens": shared[0].prompt_tokens,
            "block_tokens": block,
            "think_tokens": config.think,
            "runs": [
                {
                    "side": side,
                    "seconds": round(run.seconds, 2),
                    "cached": run.cached_tokens,
                    "prompt_tokens": run.prompt_tokens,
                }
                for runs in zip(*measurements.values(), strict=True)
                for side, run in zip(measurements, runs, strict=True)
            ],
        },
    )


def _make_comparisons(config: PrefixConfig, rng: random.Random) -> list[Comparison]:
    return make_comparisons(config.questions, config.candidates, config.question_words, config.candidate_words, rng)
