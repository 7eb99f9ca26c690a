"""Prefix-affinity routing against Ray Serve's default router, on two replicas with real engines.

Single-sample requests arrive in random order and many at a time, as from independent callers. The measure is the number
of prompt tokens that the engines read from their caches, divided by the number that a single engine could read. Tokens
of the rubric that each further replica has to compute for itself count as a loss.
"""

from __future__ import annotations

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
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.serving.cluster import connect
from flex_judge.reward.serving.config import PRIVATE_DRAIN_S
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

GOAL = 0.95
"""Minimum of the cached tokens with our router over the maximum possible."""


@settings_class
class RoutingConfig:
    """Settings of the routing bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    replicas: PositiveInt = setting(2, "Number of judge replicas", metavar="N")
    questions: PositiveInt = setting(12, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    question_words: PositiveInt = setting(120, "Length of a question in words", metavar="N")
    candidate_words: PositiveInt = setting(40, "Length of a candidate in words", metavar="N")
    think: PositiveInt = setting(16, "Thinking budget in tokens", metavar="N")
    seed: int = setting(0, "Seed of the generated texts and of their order", metavar="N")


def run(config: RoutingConfig) -> BenchResult:
    """Measure with the vllm engine on a local Ray cluster."""
    rng = random.Random(config.seed)
    comparisons = make_comparisons(
        config.questions, config.candidates, config.question_words, config.candidate_words, rng
    )
    rng.shuffle(comparisons)
    engine = EngineConfig(config.model, "vllm", max_model_len=2048)
    settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
    cacheable = _measure_cacheable_tokens(engine, settings, comparisons)
    judge = JudgeConfig(engine, settings)
    with connect() as cluster:
        with_affinity = ServiceConfig(judge, config.replicas, name="routing-prefix", drain_s=PRIVATE_DRAIN_S)
        with_affinity = with_affinity.place_on(cluster)
        without_affinity = replace(with_affinity, affinity=False, name="routing-default")
        sides = {
            "prefix affinity": run_async(_measure_service(with_affinity, comparisons)),
            "default": run_async(_measure_service(without_affinity, comparisons)),
        }
    cached_share = {name: side["cached"] / cacheable for name, side in sides.items()}
    ratio = cached_share["prefix affinity"]
    return BenchResult(
        name="routing",
        ratio=round(ratio, 4),
        goal=GOAL,
        met=ratio >= GOAL,
        details={
            "possible_cached_tokens": cacheable,
            "cached_of_possible_default": round(cached_share["default"], 4),
            "time_of_default_over_ours": round(sides["default"]["seconds"] / sides["prefix affinity"]["seconds"], 3),
            "requests": len(comparisons),
            "sides": [{"side": name, **side} for name, side in sides.items()],
        },
    )


def _measure_cacheable_tokens(config: EngineConfig, settings: JudgeSettings, comparisons: Sequence[Comparison]) -> int:
    """Count the prompt tokens that one engine could read from its cache while it judges the comparisons."""
    engine: Any = load_engine(config)
    try:
        logged = LoggedEngine(engine)
        FlexJudge(logged, settings).judge(comparisons)
        block = int(engine.block_size)
    finally:
        engine.close()
    cacheable = count_cacheable_tokens(logged.log, block)
    if not cacheable:
        raise UsageError(f"no block of {block} tokens is shared, so there is nothing to measure; raise --candidates")
    return cacheable


async def _measure_service(config: ServiceConfig, comparisons: Sequence[Comparison]) -> dict[str, Any]:
    async with JudgeService(config) as service:
        await service.wait_until_ready()
        start = time.perf_counter()
        judgments: list[Judgment] = [judgment async for judgment in service.stream_judgments([comparisons])]
        seconds = time.perf_counter() - start
    per_replica = Counter(judgment.provenance["replica"] for judgment in judgments)
    return {
        "seconds": round(seconds, 2),
        "cached": sum(judgment.usage.cached_tokens for judgment in judgments),
        "prompt_tokens": sum(judgment.usage.prompt_tokens for judgment in judgments),
        # A replica that judged nothing is missing from the counter.
        "fewest_on_a_replica": min(per_replica.values()) if len(per_replica) == config.replicas else 0,
    }
