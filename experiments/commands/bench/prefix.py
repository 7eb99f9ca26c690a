"""Prefix reuse: judging groups of candidates with our prompt order, against prompts that share nothing.

The prompt is laid out rubric, question, candidate, so that of the candidates of a question all but the candidate is
computed once. The other side is the same work with a salt of a few tokens before every request, so that no request
shares its beginning with another, not even the answer's with that of its own thinking. A third side has one salt for
each comparison, which leaves that sharing and shows what the order of the prompt is worth by itself. All sides carry a
salt of the same length and run in the same engine, one after the other, several times.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.experiments.commands.bench.logged import Log, LoggedEngine, count_cacheable_tokens
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.commands.bench.texts import make_comparisons
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig, Generation, Sampling
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judge import FlexJudge
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.types import Comparison
from flex_judge.judges.validation.classes import PositiveInt, settings_class

GOAL = 1.9
"""Time without sharing over time with it: at least."""
CACHED_GOAL = 0.99
"""Cached tokens over the most that whole blocks allow: at least."""
SALT = 8  # tokens
SIDES = ("shared", "nothing shared", "each comparison alone")


@settings_class
class PrefixConfig:
    """Settings of the bench."""

    model: str = setting("smollm2-135m", "Judge model: embedded name, folder or hub id", metavar="MODEL")
    questions: PositiveInt = setting(3, "Number of questions, each with a group of candidates", metavar="N")
    candidates: PositiveInt = setting(8, "Number of candidates per question", metavar="N")
    question_words: PositiveInt = setting(120, "Length of a question in words", metavar="N")
    candidate_words: PositiveInt = setting(80, "Length of a candidate in words", metavar="N")
    think: PositiveInt = setting(16, "Thinking budget in tokens", metavar="N")
    repeats: PositiveInt = setting(2, "Number of runs of each side", metavar="N")
    seed: int = setting(0, "Seed of the texts", metavar="N")


def run(config: PrefixConfig) -> BenchResult:
    """Measure with the vllm engine."""
    engine = load_engine(EngineConfig(config.model, "vllm", max_model_len=2048))
    try:
        salting = _PrefixSaltEngine(engine)
        settings = JudgeSettings(max_think_tokens=config.think, max_answer_tokens=16, temperature=0.0)
        judge = FlexJudge(salting, settings)
        salting.start_run("shared")
        judge.judge(_make_comparisons(config, random.Random("warm-up"))[:4])  # grammars are compiled at their first use
        sides: dict[str, list[_PrefixMeasurement]] = {side: [] for side in SIDES}
        for repeat in range(config.repeats):
            work = _make_comparisons(config, random.Random(f"{config.seed}-{repeat}"))
            for side in SIDES:
                salting.start_run(side)
                start = time.perf_counter()
                judge.judge(work)
                sides[side].append(_PrefixMeasurement(time.perf_counter() - start, salting.log))
        block = _get_block_size(engine)
    finally:
        engine.close()
    return _build_result(config, sides, block)


@dataclass
class _PrefixMeasurement:
    seconds: float
    log: Log

    @property
    def prompt_tokens(self) -> int:
        return sum(g.prompt_tokens for _, _, g in self.log)

    @property
    def cached_tokens(self) -> int:
        return sum(g.cached_tokens for _, _, g in self.log)


def _build_result(config: PrefixConfig, sides: Mapping[str, Sequence[_PrefixMeasurement]], block: int) -> BenchResult:
    ours, salted = sides["shared"], sides["nothing shared"]
    seconds = {name: statistics.median(s.seconds for s in runs) for name, runs in sides.items()}
    ratio = seconds["nothing shared"] / seconds["shared"]
    cached, possible = sum(s.cached_tokens for s in ours), sum(count_cacheable_tokens(s.log, block) for s in ours)
    if not possible:
        raise UsageError(f"no block of {block} tokens is shared, so there is nothing to measure; raise --candidates")
    share = cached / possible
    return BenchResult(
        "prefix",
        round(ratio, 3),
        GOAL,
        ratio >= GOAL and share >= CACHED_GOAL,
        {
            "cached_of_possible": round(share, 4),
            "cached_goal": CACHED_GOAL,
            "cached_of_prompt_tokens": round(cached / sum(s.prompt_tokens for s in ours), 3),
            "cached_of_prompt_tokens_salted": round(
                sum(s.cached_tokens for s in salted) / sum(s.prompt_tokens for s in salted), 3
            ),
            "ratio_of_prompt_order_alone": round(seconds["each comparison alone"] / seconds["shared"], 3),
            "requests": len(ours[0].log),
            "prompt_tokens": ours[0].prompt_tokens,
            "block_tokens": block,
            "think_tokens": config.think,
            "runs": [
                {
                    "side": name,
                    "seconds": round(s.seconds, 2),
                    "cached": s.cached_tokens,
                    "prompt_tokens": s.prompt_tokens,
                }
                for runs in zip(*sides.values(), strict=True)
                for name, s in zip(sides, runs, strict=True)
            ],
        },
    )


class _PrefixSaltEngine(LoggedEngine):
    """An engine that puts a salt before every prompt: the same for all of a run, another one for each, or one for
    each comparison."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        encoded = [self.tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(10)]
        self._digits = [ids[-1] for ids in encoded]
        self._side, self._runs, self._count = SIDES[0], 0, 0
        self._salts: dict[tuple[int, ...], int] = {}

    def start_run(self, side: str) -> None:
        """Start a run, of which no request shares anything with an earlier run."""
        self._side, self.log, self._runs = side, [], self._runs + 1
        self._salts.clear()

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        number = f"{self._runs:03}{self._choose_salt(tuple(prompt_token_ids)):0{SALT - 3}}"
        salt = [self._digits[int(digit)] for digit in number]
        return await super().generate([*salt, *prompt_token_ids], sampling, media)

    def _choose_salt(self, prompt: tuple[int, ...]) -> int:
        if self._side == "shared":
            return 0
        self._count += 1
        if self._side == "each comparison alone":  # its answer's request goes on from the request of its thinking
            for first, salt in self._salts.items():
                if prompt[: len(first)] == first:
                    return salt
            self._salts[prompt] = self._count
        return self._count


def _make_comparisons(config: PrefixConfig, rng: random.Random) -> list[Comparison]:
    return make_comparisons(config.questions, config.candidates, config.question_words, config.candidate_words, rng)


def _get_block_size(engine: Any) -> int:
    """Of the vllm engine, which alone has blocks."""
    return int(engine.block_size)
