"""Other reward functions beside the judge, for trainers that cannot leave out a completion which only some have scored.

TRL's trainers leave a completion out of its group only if none of their reward functions has a number for it. With
others beside the judge, a completion that the judge could not score would get their sum: 0 from the judge.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from flex_judge.judges.errors import UsageError

ExtraRewards = Sequence[tuple[Callable[..., Any], float]]
"""Reward functions as TRL's trainers call them, and what each is multiplied by."""


def checked(extra_rewards: ExtraRewards) -> list[tuple[Callable[..., Any], float]]:
    """Raises UsageError for what is no pair of a function and a number."""
    found = list(extra_rewards)
    for pair in found:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not callable(pair[0]) or isinstance(pair[1], bool) or not isinstance(pair[1], int | float):
            raise UsageError(f"beside: expected pairs of a reward function and its weight, got {pair!r}")
    return found


def named(function: Callable[..., Any]) -> str:
    """What its figures are logged as."""
    return str(getattr(function, "__name__", type(function).__name__))


def waited(function: Callable[..., Any], *args: Any, **rest: Any) -> list[float | None]:
    """What a function gives, which must not have to be awaited."""
    values = function(*args, **rest)
    if inspect.isawaitable(values):
        if inspect.iscoroutine(values):
            values.close()
        raise UsageError(f"beside: {named(function)} has to be awaited; use AsyncJudgeReward")
    return list(values)


async def awaited(function: Callable[..., Any], *args: Any, **rest: Any) -> list[float | None]:
    """What a function gives, awaited if it has to be."""
    values = function(*args, **rest)
    return list(await values if inspect.isawaitable(values) else values)


def summed(
    judged: Sequence[float | None], extra_rewards: ExtraRewards, values: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """The judge's rewards and the others', weighted. None of the judge's stays None; None of another, which says
    nothing of that completion, adds nothing.

    Raises:
        UsageError: a function gave another number of values than there are completions.
    """
    for (function, _), given in zip(extra_rewards, values, strict=True):
        if len(given) != len(judged):
            raise UsageError(f"beside: {named(function)} gave {len(given)} values for {len(judged)} completions")
    return [
        None
        if value is None
        else value + sum(weight * (given[i] or 0.0) for (_, weight), given in zip(extra_rewards, values, strict=True))
        for i, value in enumerate(judged)
    ]
