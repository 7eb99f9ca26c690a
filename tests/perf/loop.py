"""JudgeReward, which judges completions concurrently, compared with a reward function that judges them one by one.

Both sides are reward functions as a trainer calls them, with the same judge, engine and completions. Questions start
with the number of their run, so that no run finds another one's prompts in the prefix cache; within a run both sides
use the cache.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence

from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_sentence
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class
from flex_judge.reward.trl import JudgeReward

GOAL = 2.4
"""Minimum ratio of the time one by one to the time of JudgeReward."""
RUBRIC = "general"


@settings_class
class LoopConfig:
    """Settings of the measurement."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    prompts: PositiveInt = setting(2, "Number of questions per call", metavar="N")
    completions: PositiveInt = setting(8, "Number of completions per question", metavar="N")
    words: PositiveInt = setting(60, "Length of a question and of a completion in words", metavar="N")
    think: PositiveInt = setting(32, "Thinking budget in tokens", metavar="N")
    repeats: PositiveInt = setting(2, "Number of runs of each side", metavar="N")
    seed: int = setting(0, "Seed of the texts", metavar="N")


def run(config: LoopConfig) -> BenchResult:
    """Measure with the vllm engine, in this process."""
    engine = load_engine(EngineConfig(config.model, "vllm", max_model_len=2048))
    try:
        settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
        judge = FlexJudge(engine, settings)
        concurrent_reward = JudgeReward(judge, rubric=RUBRIC)

        def sequential_reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float | None]:
            rewards: list[float | None] = []
            for prompt, completion in zip(prompts, completions, strict=True):
                (judgment,) = judge.judge([Comparison.of(prompt, completion, rubric=RUBRIC)])
                rewards.append(judgment.expected_scores[0] if judgment.expected_scores else None)
            return rewards

        sides: dict[str, Callable[..., list[float | None]]] = {
            "side by side": concurrent_reward,
            "one by one": sequential_reward,
        }
        for name, side in sides.items():
            side(*_make_call(config, f"Warm-up {name}", 1))
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        unscored = 0
        for repeat in range(config.repeats):
            for number, (name, side) in enumerate(sides.items()):
                call = _make_call(config, f"{repeat}.{number}", config.completions)
                start = time.perf_counter()
                rewards = side(*call)
                seconds[name].append(time.perf_counter() - start)
                unscored += rewards.count(None)
    finally:
        engine.close()
    return _make_result(config, seconds, unscored)


def _make_call(config: LoopConfig, label: str, completions: int) -> tuple[list[str], list[str]]:
    """Make the prompts and completions of one call, which differ between calls in the label only."""
    rng = random.Random(config.seed)
    questions = [f"{label}: {make_sentence(config.words, rng)}" for _ in range(config.prompts)]
    prompts = [prompt for prompt in questions for _ in range(completions)]
    return prompts, [make_sentence(config.words, rng) for _ in prompts]


def _make_result(config: LoopConfig, seconds: dict[str, list[float]], unscored: int) -> BenchResult:
    ratios = [
        sequential / concurrent
        for concurrent, sequential in zip(seconds["side by side"], seconds["one by one"], strict=True)
    ]
    ratio = statistics.median(ratios)
    return BenchResult(
        "loop",
        round(ratio, 3),
        GOAL,
        ratio >= GOAL and not unscored,
        {
            "requests": config.prompts * config.completions,
            "unscored": unscored,
            "worst_ratio": round(min(ratios), 3),
            "runs": [
                {"side": name, "seconds": round(s, 2)}
                for runs in zip(*seconds.values(), strict=True)
                for name, s in zip(seconds, runs, strict=True)
            ],
        },
    )
