"""Comparisons that start while completions arrive, compared with a group that is judged when it is complete.

The engine is scripted: each comparison takes `seconds`, and at most `slots` run at the same time. Everything else is
the project's own code: judge, group collector, methods and rewards. Completions arrive one by one at equal intervals;
the waiting side adds them all when the last one is there. The times are from the first completion to the last reward.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import statistics
import time
from typing import Annotated

from annotated_types import Ge

from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Message
from flex_judge.judges.validation.classes import PositiveFloat, PositiveInt, settings_class
from flex_judge.reward.groups.collector import GroupCollector
from flex_judge.reward.types import Method, RewardSpec, Sample

GOAL = 1.3
"""Minimum ratio of the times, for a round robin of 8 completions that arrive within its judging time."""
METHODS: tuple[Method, ...] = ("round_robin", "circular", "swiss", "knockout")
SPREADS = (0.5, 1.0, 2.0)
"""Time from the first to the last completion, in judging times of a group that is complete at once."""


@settings_class
class ArrivalsConfig:
    """Settings of the measurement."""

    seconds: PositiveFloat = setting(0.05, "Duration of a comparison in seconds", metavar="S")
    slots: PositiveInt = setting(4, "Number of comparisons that the engine runs at the same time", metavar="N")
    repeats: PositiveInt = setting(5, "Number of runs of each side; medians are reported", metavar="N")
    largest: Annotated[int, Ge(4)] = setting(
        16, "Size of the largest group; each size is half of the next", metavar="N"
    )


class _Judging:
    """Collector on a scripted judge; each group has its own prompt."""

    def __init__(self, config: ArrivalsConfig) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.slots)
        settings = JudgeSettings(max_think_tokens=100, temperature=0.0, forced_answer=False)
        self.collector = GroupCollector(FlexJudge(ScriptedEngine(self._reply), settings).ajudge)
        self._numbers = itertools.count()

    async def _reply(self, prompt: str, sampling: Sampling) -> str:
        if sampling.stop == ("</think>",):  # the reasoning takes the time, the answer none
            async with self._slots:
                await asyncio.sleep(self._config.seconds)
            return "I compare.</think>"
        return "".join(f"<answer>{score}</answer>" for score in re.findall(r"worth (\d+)", prompt))

    async def measure_group(self, method: Method, size: int, spread_s: float, starts_early: bool) -> float:
        """Measure the seconds from the first completion to the last reward."""
        spec = RewardSpec(method=method, reward="rank", group_size=size, group_timeout_s=600.0)
        prompt = (Message("user", f"Question {next(self._numbers)}?"),)
        samples = [Sample(prompt, f"worth {1 + i % 9}, completion {i}") for i in range(size)]
        start = time.perf_counter()
        futures = []
        for i, sample in enumerate(samples):
            await asyncio.sleep(max(0.0, start + i * spread_s / (size - 1) - time.perf_counter()))
            if starts_early:
                futures += self.collector.add([sample], spec)
        if not starts_early:
            futures += self.collector.add(samples, spec)
        rewards = await asyncio.gather(*futures)
        assert all(reward.value is not None and reward.group.is_whole for reward in rewards)
        return time.perf_counter() - start


def run(config: ArrivalsConfig) -> BenchResult:
    """Measure all methods, sizes and spreads.

    Returns:
        Ratio: time of the waiting side over the time with early comparisons, see `GOAL`.
    """
    return asyncio.run(_run_async(config))


async def _run_async(config: ArrivalsConfig) -> BenchResult:
    judging = _Judging(config)
    sizes = [size for size in (config.largest // 4, config.largest // 2, config.largest) if size > 1]
    rows = []
    for method, size in itertools.product(METHODS, sizes):
        whole = [await judging.measure_group(method, size, 0.0, False) for _ in range(config.repeats)]
        for spread in SPREADS:
            spread_s = spread * statistics.median(whole)
            seconds = {
                side: [await judging.measure_group(method, size, spread_s, side) for _ in range(config.repeats)]
                for side in (False, True)
            }
            waiting, early = (statistics.median(values) for values in seconds.values())
            rows.append(
                {
                    "method": method,
                    "completions": size,
                    "spread": spread,
                    "judging_s": round(statistics.median(whole), 3),
                    "waiting_s": round(waiting, 3),
                    "early_s": round(early, 3),
                    "ratio": round(waiting / early, 2),
                }
            )
    await judging.collector.close()
    chosen = [row for row in rows if (row["method"], row["spread"]) == ("round_robin", 1.0)]
    ratio = next(float(str(row["ratio"])) for row in reversed(chosen) if row["completions"] == min(8, config.largest))
    return BenchResult("arrivals", ratio, GOAL, ratio >= GOAL, {"slots": config.slots, "groups": rows})
