"""Prefix-affinity routing against Ray Serve's default, on two replicas with real engines.

Single-sample requests arrive in a random order, many at a time, as from callers that know nothing of each other. What
counts is how many prompt tokens the engines take from their caches, of the most that one engine with everything in one
place could: the rubric's tokens that each further replica has to compute for itself are counted as a loss.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flex_judge.experiments.commands.bench.logged import LoggedEngine, count_cacheable_tokens
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_comparisons
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.serving.cluster import connect
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

GOAL = 0.95
"""Cached tokens with our router over the most that are possible: at least."""


@settings_class
class RoutingConfig:
    """Settings of the bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    replicas: PositiveInt = setting(2, "Number of judge replicas", metavar="N")
    questions: PositiveInt = setting(12, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    question_words: PositiveInt = setting(120, "Length of a question in words", metavar="N")
    candidate_words: PositiveInt = setting(40, "Length of a candidate in words", metavar="N")
    think: PositiveInt = setting(16, "Thinking budget in tokens", metavar="N")
    seed: int = setting(0, "Seed of the texts and of their order", metavar="N")


def run(config: RoutingConfig) -> BenchResult:
    """Measure with the vllm engine on a local Ray."""
    rng = random.Random(config.seed)
    work = make_comparisons(config.questions, config.candidates, config.question_words, config.candidate_words, rng)
    rng.shuffle(work)
    engine = EngineConfig(config.model, "vllm", max_model_len=2048)
    settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
    possible = _measure_cacheable_tokens(engine, settings, work)
    judge = JudgeConfig(engine, settings)
    with connect() as cluster:
        ours = ServiceConfig(judge, config.replicas, name="routing-prefix").place_on(cluster)
        theirs = replace(ours, affinity=False, name="routing-default")
        sides = {
            name: asyncio.run(_measure_service(c, work)) for name, c in (("prefix affinity", ours), ("default", theirs))
        }
    share = {name: side["cached"] / possible for name, side in sides.items()}
    ratio = share["prefix affinity"]
    return BenchResult(
        "routing",
        round(ratio, 4),
        GOAL,
        ratio >= GOAL,
        {
            "possible_cached_tokens": possible,
            "cached_of_possible_default": round(share["default"], 4),
            "time_of_default_over_ours": round(sides["default"]["seconds"] / sides["prefix affinity"]["seconds"], 3),
            "requests": len(work),
            "sides": [{"side": name, **side} for name, side in sides.items()],
        },
    )


def _measure_cacheable_tokens(config: EngineConfig, settings: JudgeSettings, work: Sequence[Comparison]) -> int:
    """The most tokens that one engine could take from its cache while it judges `work`."""
    engine = load_engine(config)
    try:
        logged = LoggedEngine(engine)
        FlexJudge(logged, settings).judge(work)
        block = int(engine.block_size)  # type: ignore[attr-defined] # vllm's alone has blocks
    finally:
        engine.close()
    possible = count_cacheable_tokens(logged.log, block)
    if not possible:
        raise UsageError(f"no block of {block} tokens is shared, so there is nothing to measure; raise --candidates")
    return possible


async def _measure_service(config: ServiceConfig, work: Sequence[Comparison]) -> dict[str, Any]:
    async with JudgeService(config) as service:
        await service.wait_until_ready()
        start = time.perf_counter()
        judgments: list[Judgment] = [j async for j in service.stream_judgments([work])]
        seconds = time.perf_counter() - start
    per_replica = Counter(j.provenance["replica"] for j in judgments)
    return {
        "seconds": round(seconds, 2),
        "cached": sum(j.usage.cached_tokens for j in judgments),
        "prompt_tokens": sum(j.usage.prompt_tokens for j in judgments),
        "fewest_on_a_replica": min(per_replica.values()) if len(per_replica) == config.replicas else 0,
    }
