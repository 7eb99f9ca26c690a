"""How good a policy is on prompts that it was not trained on: by the judge, and by the truth where it is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alignment.metrics import Estimate, estimate
from alignment.policies import Policy
from alignment.rows import PromptRow
from alignment.tasks.arithmetic import is_right
from judges.engines import Sampling
from judges.errors import UsageError
from reward.groups.judging import Ask
from reward.samples import RewardSpec, Sample
from reward.scoring import expected_score, written_score
from reward.tasks import all_of


@dataclass(frozen=True)
class HeldOut:
    """Prompts, and how a policy is measured on them."""

    rows: tuple[PromptRow, ...]
    sampling: Sampling
    """With a seed, so that two policies are measured with the same draws."""
    samples: int = 4
    """Answers to each prompt."""
    rubric: str = "general"
    answer: str | None = None
    """Name of the kept column with the number that is the right answer."""

    def __post_init__(self) -> None:
        if not self.rows:
            raise UsageError("there are no held-out prompts to measure the policy on")


@dataclass(frozen=True)
class Measured:
    """What was seen of a policy, prompt by prompt."""

    scores: tuple[float | None, ...]
    """The mean expected score of each prompt's answers; None where none has a score."""
    right: tuple[float, ...] | None
    """The share of each prompt's answers that are right; None where that is not known."""
    tokens: tuple[float, ...]
    """The mean length of each prompt's answers."""
    unscored: int
    """Answers without a score."""


async def measure(policy: Policy, ask: Ask, held_out: HeldOut) -> Measured:
    """Sample answers to every prompt and have each judged.

    Raises:
        UsageError: a prompt does not fit the policy, or the rubric is not made for one answer.
        EngineLostError: a model died.
    """
    found = await all_of(_one(policy, ask, held_out, row) for row in held_out.rows)
    right = tuple(f.right for f in found if f.right is not None)
    return Measured(
        tuple(f.score for f in found),
        right if held_out.answer is not None else None,
        tuple(f.tokens for f in found),
        sum(f.unscored for f in found),
    )


def compared(before: Measured, after: Measured, seed: int = 0) -> dict[str, Any]:
    """Figures of two policies on the same prompts, with 95 % intervals, and of their difference prompt by prompt.

    Prompts on which either has no score are left out of the scores, and counted.
    """
    both = [(b, a) for b, a in zip(before.scores, after.scores, strict=True) if b is not None and a is not None]
    figures: dict[str, Any] = {
        "prompts": len(before.scores),
        "prompts_without_a_score": len(before.scores) - len(both),
        "answers_without_a_score": {"before": before.unscored, "after": after.unscored},
        "score": _pair(both, seed) if both else None,
        "tokens": _pair(list(zip(before.tokens, after.tokens, strict=True)), seed),
    }
    if before.right is not None and after.right is not None:
        figures["right"] = _pair(list(zip(before.right, after.right, strict=True)), seed)
    return figures


@dataclass(frozen=True)
class _Prompt:
    score: float | None
    right: float | None
    tokens: float
    unscored: int


async def _one(policy: Policy, ask: Ask, held_out: HeldOut, row: PromptRow) -> _Prompt:
    completions = await policy.sample(row.prompt, held_out.sampling, range(held_out.samples))
    texts = list(dict.fromkeys(c.text for c in completions))
    spec = RewardSpec(held_out.rubric)
    asked = (Sample(row.prompt, text).comparison(spec.rubric, id=f"{row.id}/{k}") for k, text in enumerate(texts))
    judgments = dict(zip(texts, await all_of(_asked(ask, comparison) for comparison in asked), strict=True))
    scores = [_score(judgments[c.text]) for c in completions]
    known = [score for score in scores if score is not None]
    count = len(completions)
    right = None
    if held_out.answer is not None:
        right = sum(is_right(c.text, row.kept[held_out.answer]) for c in completions) / count
    return _Prompt(
        math.fsum(known) / len(known) if known else None,
        right,
        sum(c.tokens for c in completions) / count,
        count - len(known),
    )


async def _asked(ask: Ask, comparison: Any) -> Any:
    return await ask(comparison)


def _score(judgment: Any) -> float | None:
    expected = expected_score(judgment)
    return written_score(judgment) if expected is None else expected


def _pair(values: Sequence[tuple[float, float]], seed: int) -> dict[str, Any]:
    def told(numbers: list[float]) -> dict[str, Any]:
        found: Estimate = estimate(numbers, seed)
        return asdict(found)

    return {
        "before": told([b for b, _ in values]),
        "after": told([a for _, a in values]),
        "difference": told([a - b for b, a in values]),
    }
