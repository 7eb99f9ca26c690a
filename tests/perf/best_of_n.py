"""Successive halving compared with judging every answer equally often: the savings, and their cost in quality.

The judge is simulated, so that thousands of prompts take seconds and the true qualities are known; votes are spent and
answers chosen by the project's own code. The qualities of a prompt's answers are drawn from Normal(m, spread), with m
from Normal(5.5, 1). A judgment observes a quality with a normal error of standard deviation `noise` and writes the
nearest integer from 1 to 10; one judgment in a hundred has no score. Given the qualities, judgments are independent.
There are no expected scores, which could only add information: after thinking, nearly all probability is on one score
(arXiv 2503.03064). Both sides read the same judgments: the exhaustive side all of each answer, halving the first ones.

Tokens are those that the judge computes: `PROMPT_TOKENS` for the first judgment of an answer (the answer and the text
after it; the text before it is shared, and later judgments find everything in the prefix cache), and for each judgment
its thinking, log-normal with a median of `THINKING_TOKENS`.

The regret of a winner is the quality of the exhaustive winner minus the quality of halving's winner, as a fraction of
the range of qualities among the prompt's answers, averaged over prompts. It is negative if halving happens to choose
the better one. `loss` counts such prompts as zero, so it is stricter, and it is compared with the goal. A prompt
without a winner counts as its worst answer.
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
"""Maximum ratio of halving's tokens to the tokens of the exhaustive side."""
REGRET_GOAL = 0.01
"""Maximum loss: the regret of the winners, with negative values counted as zero."""
NOISE_LEVELS = (0.25, 0.5, 1.0, 1.5, 2.0)
UNSCORED = 0.01
"""Fraction of judgments without a score."""
PROMPT_TOKENS = 300
THINKING_TOKENS = 400

PROMPT = (Message("user", "?"),)


@settings_class
class BestOfNConfig:
    """Settings of the measurement."""

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
            _make_spec(self)
        except UsageError as e:
            raise UsageError(f"--{e}") from e


@dataclass(frozen=True)
class _Prompt:
    qualities: tuple[float, ...]
    judgments: tuple[tuple[Judgment, ...], ...]
    """All judgments of each answer."""

    async def judge_once(self, comparison: Comparison) -> Judgment:
        """Return the judgment of the comparison's sample index."""
        return self.judgments[_get_index(comparison)][comparison.sample_index]

    async def judge_exhaustively(self, comparison: Comparison) -> Judgment:
        """Combine all judgments of an answer, as a judge with that many votes would."""
        judgments = self.judgments[_get_index(comparison)]
        usage = sum((judgment.usage for judgment in judgments), Usage())
        return combine_votes(comparison.id, [judgment.votes for judgment in judgments], usage=usage)


@dataclass(frozen=True)
class _SideResult:
    """Result of one side."""

    tokens: int
    judgments: int
    qualities: tuple[float, ...]
    """Quality of each prompt's winner."""


@dataclass(frozen=True)
class _Metrics:
    """Metrics at one noise level and seed."""

    row: Mapping[str, Any]
    """Halving compared with the exhaustive side: `judgments` per prompt, `same` is the fraction of equal winners."""
    shortfall: Mapping[str, float]
    """Side -> mean shortfall of its winner from the truly best answer, in the unit of the regret."""


def run(config: BestOfNConfig) -> BenchResult:
    """Measure at the configured noise with several seeds, and at other noise levels with the first seed.

    Returns:
        Ratio: tokens of halving over tokens of the exhaustive side, for the worst seed. Met if the ratio is at most
        `GOAL` and the loss at most `REGRET_GOAL` with every seed.
    """
    return asyncio.run(_run_async(config))


async def _run_async(config: BestOfNConfig) -> BenchResult:
    seeds = range(config.seed, config.seed + config.seeds)
    by_seed = {seed: await _compute_metrics(config, config.noise, seed) for seed in seeds}
    by_noise = {
        noise: by_seed[config.seed] if noise == config.noise else await _compute_metrics(config, noise, config.seed)
        for noise in sorted({*NOISE_LEVELS, config.noise})
    }
    rows = [metrics.row for metrics in by_seed.values()]
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
            "by_seed": [{"seed": seed, **metrics.row} for seed, metrics in by_seed.items()],
            "short_of_the_best_by_seed": [{"seed": seed, **metrics.shortfall} for seed, metrics in by_seed.items()],
            "by_noise": [{"noise": noise, **metrics.row} for noise, metrics in by_noise.items()],
            "short_of_the_best_by_noise": [
                {"noise": noise, **metrics.shortfall} for noise, metrics in by_noise.items()
            ],
        },
    )


async def _compute_metrics(config: BestOfNConfig, noise: float, seed: int) -> _Metrics:
    prompts = _simulate_prompts(config, noise, seed)
    pointwise = SelectionSpec("pointwise", seed=seed)
    exhaustive = _summarize_side(
        prompts, [await _select(config, p.judge_exhaustively, pointwise, i) for i, p in enumerate(prompts)]
    )
    halving = _summarize_side(
        prompts, [await _select(config, p.judge_once, _make_spec(config, seed), i) for i, p in enumerate(prompts)]
    )
    once = _summarize_side(prompts, [await _select(config, p.judge_once, pointwise, i) for i, p in enumerate(prompts)])
    best = [max(prompt.qualities) for prompt in prompts]
    ratio = halving.tokens / exhaustive.tokens
    loss = _compute_regret(prompts, exhaustive.qualities, halving.qualities, minimum=0.0)
    same = sum(a == b for a, b in zip(exhaustive.qualities, halving.qualities, strict=True))
    row = {
        "ratio": ratio,
        "regret": _compute_regret(prompts, exhaustive.qualities, halving.qualities),
        "loss": loss,
        "judgments": halving.judgments / len(prompts),
        "same": same / len(prompts),
        "met": ratio <= GOAL and loss <= REGRET_GOAL,
    }
    shortfall = {
        "exhaustive": _compute_regret(prompts, best, exhaustive.qualities),
        "halving": _compute_regret(prompts, best, halving.qualities),
        "one_judgment": _compute_regret(prompts, best, once.qualities),
    }
    return _Metrics(row, shortfall)


async def _select(config: BestOfNConfig, ask: Any, spec: SelectionSpec, number: int) -> Selection:
    return await select_best(PROMPT, [str(i) for i in range(config.samples)], spec, ask, id=str(number))


def _summarize_side(prompts: Sequence[_Prompt], selections: Sequence[Selection]) -> _SideResult:
    usage = sum((selection.usage for selection in selections), Usage())
    return _SideResult(
        usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens,
        sum(len(selection.judgments) for selection in selections),
        tuple(
            min(p.qualities) if s.best is None else p.qualities[s.best]
            for p, s in zip(prompts, selections, strict=True)
        ),
    )


def _compute_regret(
    prompts: Sequence[_Prompt], reference: Sequence[float], qualities: Sequence[float], minimum: float = -math.inf
) -> float:
    shares = [
        max(minimum, (reference_quality - quality) / (max(p.qualities) - min(p.qualities)))
        for p, reference_quality, quality in zip(prompts, reference, qualities, strict=True)
    ]
    return math.fsum(shares) / len(shares)


def _simulate_prompts(config: BestOfNConfig, noise: float, seed: int) -> list[_Prompt]:
    rng = random.Random(f"best-of-n/{seed}/{noise}")
    prompts = []
    for _ in range(config.prompts):
        centre = rng.gauss(5.5, 1.0)
        qualities = tuple(rng.gauss(centre, config.spread) for _ in range(config.samples))
        judgments = tuple(tuple(_simulate_judgment(rng, q, noise, k) for k in range(config.votes)) for q in qualities)
        prompts.append(_Prompt(qualities, judgments))
    return prompts


def _simulate_judgment(rng: random.Random, quality: float, noise: float, number: int) -> Judgment:
    observed = quality + noise * rng.gauss(0.0, 1.0)
    failed = rng.random() < UNSCORED
    thinking = round(THINKING_TOKENS * math.exp(0.5 * rng.gauss(0.0, 1.0)))
    verdict = Verdict(Status.UNPARSEABLE) if failed else Verdict(Status.OK, (float(min(10, max(1, round(observed)))),))
    usage = Usage(PROMPT_TOKENS, PROMPT_TOKENS if number else 0, thinking)
    return Judgment("", verdict.status, verdict.scores, None, "", votes=(verdict,), usage=usage)


def _get_index(comparison: Comparison) -> int:
    return int(content_to_text(comparison.responses[0]))


def _make_spec(config: BestOfNConfig, seed: int = 0) -> SelectionSpec:
    return SelectionSpec("halving", seed=seed, votes=config.votes, budget=config.budget, confidence=config.confidence)
