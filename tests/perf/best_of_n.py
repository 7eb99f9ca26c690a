"""Successive halving against judging every answer as often as any: what it saves, and what that costs.

The judge is made up, so that thousands of prompts take seconds and the truth is known; what spends votes and chooses is
the project's own code. The answers to a prompt have qualities drawn from Normal(m, spread), with m from Normal(5.5, 1).
A judgment sees an answer's quality with a normal error of standard deviation `noise`, and writes the nearest whole
number from 1 to 10; one in a hundred has no score. Given the qualities, judgments are independent. There are no
expected scores, which could only tell more: thinking leaves the distribution at the answer with one score alone
(arXiv 2503.03064). Both sides read the same judgments: the exhaustive way all that there are of every answer, halving
the first ones.

Tokens are those that the judge has to compute: `PROMPT_TOKENS` for the first judgment of an answer (the answer and what
follows it; what stands before is shared by all, and later judgments find all of it in the cache), and for each judgment
its thinking, log-normal about a median of `THINKING_TOKENS`.

The winner's regret is the quality of the exhaustive way's winner minus that of halving's, as a share of the range of
qualities among the prompt's answers, averaged over prompts. Where halving happens to choose the better one it is
negative; `loss` counts those prompts as zero, so it is the harder figure, and the one that is held against the goal.
Where there is no winner, the worst answer counts.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge

from flex_judge.alignment.best_of_n.selection import Selection, SelectionSpec, select_best
from flex_judge.experiments.commands.bench.result import BenchResult
from flex_judge.experiments.common.flags import setting
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Judgment, Status, Usage, Verdict
from flex_judge.judges.protocol.voting import combine_votes
from flex_judge.judges.types import Comparison, Message, content_to_text
from flex_judge.judges.validation.classes import NonNegativeFloat, NonNegativeInt, PositiveInt, settings_class

GOAL = 0.5
"""Tokens of halving, as a share of those of the exhaustive way: at most."""
REGRET_GOAL = 0.01
"""The winner's regret, prompts where it is negative counted as zero: at most."""
NOISE_LEVELS = (0.25, 0.5, 1.0, 1.5, 2.0)
UNSCORED = 0.01
"""Share of judgments without a score."""
PROMPT_TOKENS = 300
THINKING_TOKENS = 400

PROMPT = (Message("user", "?"),)


@settings_class
class BestOfNConfig:
    """Settings of the bench."""

    prompts: PositiveInt = setting(100, "Number of prompts per seed and noise level")
    samples: Annotated[int, Ge(2)] = setting(16, "Number of answers per prompt")
    votes: PositiveInt = setting(8, "Judgments per answer if exhaustive; the maximum with halving")
    noise: NonNegativeFloat = setting(1.0, "Standard deviation of a judgment's error, in points on the scale 1-10")
    spread: Annotated[float, Ge(0.01)] = setting(
        1.5, "Standard deviation of the qualities of answers to a prompt, in these points"
    )
    budget: float = setting(SelectionSpec.budget, "Fraction of the exhaustive judgments that halving may spend")
    confidence: float = setting(SelectionSpec.confidence, "Confidence at which halving drops an answer")
    seeds: PositiveInt = setting(5, "Number of seeds; the worst result is reported")
    seed: NonNegativeInt = setting(0, "First seed")

    def __post_init__(self) -> None:
        try:
            _spec(self)
        except UsageError as e:
            raise UsageError(f"--{e}") from e


@dataclass(frozen=True)
class _Prompt:
    qualities: tuple[float, ...]
    judgments: tuple[tuple[Judgment, ...], ...]
    """Of each answer, all that there are."""

    async def one(self, comparison: Comparison) -> Judgment:
        """One judgment: the one that the draw names."""
        return self.judgments[_index(comparison)][comparison.sample_index]

    async def all(self, comparison: Comparison) -> Judgment:
        """All judgments of an answer as one, as a judge with so many votes gives it."""
        told = self.judgments[_index(comparison)]
        usage = sum((judgment.usage for judgment in told), Usage())
        return combine_votes(comparison.id, [judgment.votes for judgment in told], usage=usage)


@dataclass(frozen=True)
class _Outcome:
    tokens: int
    judgments: int
    qualities: tuple[float, ...]
    """Of each prompt's winner."""


@dataclass(frozen=True)
class _Figures:
    row: Mapping[str, Any]
    """Halving against the exhaustive way; `judgments` are those of a prompt, `same` the share of same winners."""
    short: Mapping[str, float]
    """By how much each way's winner falls short of the answer that is truly the best, measured as regret is."""


def run(config: BestOfNConfig) -> BenchResult:
    """Measure at the configured noise with several seeds, and at other levels of noise with the first of them.

    Returns:
        As ratio, the tokens of halving over those of the exhaustive way, with the seed where that is highest. Met if it
        is at most `GOAL` and the loss at most `REGRET_GOAL` with every seed.
    """
    return asyncio.run(_measured(config))


async def _measured(config: BestOfNConfig) -> BenchResult:
    seeds = range(config.seed, config.seed + config.seeds)
    by_seed = {seed: await _figures(config, config.noise, seed) for seed in seeds}
    by_noise = {
        noise: by_seed[config.seed] if noise == config.noise else await _figures(config, noise, config.seed)
        for noise in sorted({*NOISE_LEVELS, config.noise})
    }
    rows = [found.row for found in by_seed.values()]
    worst: dict[str, Any] = {name: max(row[name] for row in rows) for name in ("ratio", "regret", "loss")}
    return BenchResult(
        name="best-of-n",
        ratio=worst["ratio"],
        goal=GOAL,
        met=all(row["met"] for row in rows),
        details={
            "prompts": config.prompts,
            "samples": config.samples,
            "votes": config.votes,
            "noise": config.noise,
            "spread": config.spread,
            "budget": config.budget,
            "confidence": config.confidence,
            "worst_regret": worst["regret"],
            "regret_goal": REGRET_GOAL,
            "worst_loss": worst["loss"],
            "by_seed": [{"seed": seed, **found.row} for seed, found in by_seed.items()],
            "short_of_the_best_by_seed": [{"seed": seed, **found.short} for seed, found in by_seed.items()],
            "by_noise": [{"noise": noise, **found.row} for noise, found in by_noise.items()],
            "short_of_the_best_by_noise": [{"noise": noise, **found.short} for noise, found in by_noise.items()],
        },
    )


async def _figures(config: BestOfNConfig, noise: float, seed: int) -> _Figures:
    prompts = _prompts(config, noise, seed)
    alone = SelectionSpec("pointwise", seed=seed)
    exhaustive = _outcome(prompts, [await _selected(config, p.all, alone, i) for i, p in enumerate(prompts)])
    halving = _outcome(prompts, [await _selected(config, p.one, _spec(config, seed), i) for i, p in enumerate(prompts)])
    once = _outcome(prompts, [await _selected(config, p.one, alone, i) for i, p in enumerate(prompts)])
    best = [max(prompt.qualities) for prompt in prompts]
    ratio = halving.tokens / exhaustive.tokens
    loss = _regret(prompts, exhaustive.qualities, halving.qualities, least=0.0)
    same = sum(a == b for a, b in zip(exhaustive.qualities, halving.qualities, strict=True))
    row = {
        "ratio": ratio,
        "regret": _regret(prompts, exhaustive.qualities, halving.qualities),
        "loss": loss,
        "judgments": halving.judgments / len(prompts),
        "same": same / len(prompts),
        "met": ratio <= GOAL and loss <= REGRET_GOAL,
    }
    short = {
        "exhaustive": _regret(prompts, best, exhaustive.qualities),
        "halving": _regret(prompts, best, halving.qualities),
        "one_judgment": _regret(prompts, best, once.qualities),
    }
    return _Figures(row, short)


async def _selected(config: BestOfNConfig, ask: Any, spec: SelectionSpec, number: int) -> Selection:
    return await select_best(PROMPT, [str(i) for i in range(config.samples)], spec, ask, id=str(number))


def _outcome(prompts: Sequence[_Prompt], selections: Sequence[Selection]) -> _Outcome:
    usage = sum((selection.usage for selection in selections), Usage())
    return _Outcome(
        usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens,
        sum(len(selection.judgments) for selection in selections),
        tuple(
            min(p.qualities) if s.best is None else p.qualities[s.best]
            for p, s in zip(prompts, selections, strict=True)
        ),
    )


def _regret(
    prompts: Sequence[_Prompt], reached: Sequence[float], ours: Sequence[float], least: float = -math.inf
) -> float:
    shares = [
        max(least, (theirs - own) / (max(p.qualities) - min(p.qualities)))
        for p, theirs, own in zip(prompts, reached, ours, strict=True)
    ]
    return math.fsum(shares) / len(shares)


def _prompts(config: BestOfNConfig, noise: float, seed: int) -> list[_Prompt]:
    rng = random.Random(f"best-of-n/{seed}/{noise}")
    made = []
    for _ in range(config.prompts):
        centre = rng.gauss(5.5, 1.0)
        qualities = tuple(rng.gauss(centre, config.spread) for _ in range(config.samples))
        judgments = tuple(tuple(_judgment(rng, q, noise, k) for k in range(config.votes)) for q in qualities)
        made.append(_Prompt(qualities, judgments))
    return made


def _judgment(rng: random.Random, quality: float, noise: float, number: int) -> Judgment:
    seen = quality + noise * rng.gauss(0.0, 1.0)
    failed = rng.random() < UNSCORED
    thinking = round(THINKING_TOKENS * math.exp(0.5 * rng.gauss(0.0, 1.0)))
    verdict = Verdict(Status.UNPARSEABLE) if failed else Verdict(Status.OK, (float(min(10, max(1, round(seen)))),))
    usage = Usage(PROMPT_TOKENS, PROMPT_TOKENS if number else 0, thinking)
    return Judgment("", verdict.status, verdict.scores, None, "", votes=(verdict,), usage=usage)


def _index(comparison: Comparison) -> int:
    return int(content_to_text(comparison.responses[0]))


def _spec(config: BestOfNConfig, seed: int = 0) -> SelectionSpec:
    return SelectionSpec("halving", seed=seed, votes=config.votes, budget=config.budget, confidence=config.confidence)
