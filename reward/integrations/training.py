"""The training run around a reward function: its id, its logs, and the other rewards that it adds up."""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.types import Reward


def compute_judge_metrics(rewards: Sequence[Reward], seconds: float) -> dict[str, float]:
    """Figures of one call, all finite. `score_mean`, and `disagreement` between orders, are left out where no
    completion has them; the others are always there.

    Shares (`scored`, one `status_...` for each status, `whole`: judged in time and in a complete group) are of all
    completions; tokens are means per completion, latency is the call's, in seconds.
    """
    count = max(1, len(rewards))
    found = {f"status_{status}": sum(r.status == status for r in rewards) / count for status in Status}
    found["scored"] = sum(r.value is not None for r in rewards) / count
    found["whole"] = sum(r.group.is_complete and not r.group.late for r in rewards) / count
    found["latency_s"] = seconds
    for name in ("prompt_tokens", "cached_tokens", "generated_tokens"):
        found[name] = sum(getattr(r.usage, name) for r in rewards) / count
    means = {
        "score_mean": _compute_mean(r.score for r in rewards),
        "disagreement": _compute_mean(r.disagreement for r in rewards),
    }
    return found | {name: mean for name, mean in means.items() if mean is not None}


def build_completion_columns(rewards: Sequence[Reward]) -> dict[str, list[Any]]:
    """For each completion what the judge thought, its status and the score that it wrote (None if unscored)."""
    return {
        "reasoning": [r.reasoning or r.detail for r in rewards],
        "status": [str(r.status) for r in rewards],
        "score": [r.score for r in rewards],
    }


def _compute_mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


_LOCK = threading.Lock()
_names: list[str] = []


def get_run_id() -> str:
    """A name that all ranks of this run have and nobody else; another one after every start.

    The first call is a broadcast where torch.distributed is set up, so all ranks must make it, as they do when their
    trainer rewards a step.
    """
    with _LOCK:  # two reward functions that run side by side must not broadcast in another order on every rank
        if not _names:
            _names.append(_broadcast_name(uuid4().hex[:16]))
        return _names[0]


def count_ranks() -> int:
    """How many processes train."""
    distributed = _get_distributed()
    return int(distributed.get_world_size()) if distributed else int(os.environ.get("WORLD_SIZE") or 1)


def _broadcast_name(name: str) -> str:
    distributed = _get_distributed()
    if distributed is None or distributed.get_world_size() == 1:
        return name
    told = [name]
    distributed.broadcast_object_list(told, src=0)
    return str(told[0])


def _get_distributed() -> Any:
    """torch.distributed where it is set up. It is not imported for that: trainers have done so."""
    torch = sys.modules.get("torch.distributed")
    return torch if torch is not None and torch.is_available() and torch.is_initialized() else None


ExtraRewards = Sequence[tuple[Callable[..., Any], float]]
"""Reward functions as TRL's trainers call them, and what each is multiplied by."""


def check_extra_rewards(extra_rewards: ExtraRewards) -> list[tuple[Callable[..., Any], float]]:
    """Raises UsageError for what is no pair of a function and a number."""
    found = list(extra_rewards)
    for pair in found:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or not callable(pair[0]) or isinstance(pair[1], bool) or not isinstance(pair[1], int | float):
            raise UsageError(f"extra_rewards: expected pairs of a reward function and its weight, got {pair!r}")
    return found


def get_function_name(function: Callable[..., Any]) -> str:
    """What its figures are logged as."""
    return str(getattr(function, "__name__", type(function).__name__))


def call_reward(function: Callable[..., Any], *args: Any, **rest: Any) -> list[float | None]:
    """What a function gives, which must not have to be awaited."""
    values = function(*args, **rest)
    if inspect.isawaitable(values):
        if inspect.iscoroutine(values):
            values.close()
        raise UsageError(f"extra_rewards: {get_function_name(function)} has to be awaited; use AsyncJudgeReward")
    return list(values)


async def acall_reward(function: Callable[..., Any], *args: Any, **rest: Any) -> list[float | None]:
    """What a function gives, awaited if it has to be."""
    values = function(*args, **rest)
    return list(await values if inspect.isawaitable(values) else values)


def add_rewards(
    judged: Sequence[float | None], extra_rewards: ExtraRewards, values: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """The judge's rewards and the others', weighted. None of the judge's stays None; None of another, which says
    nothing of that completion, adds nothing.

    Raises:
        UsageError: a function gave another number of values than there are completions.
    """
    for (function, _), given in zip(extra_rewards, values, strict=True):
        if len(given) != len(judged):
            raise UsageError(
                f"extra_rewards: {get_function_name(function)} gave {len(given)} values for {len(judged)} completions"
            )
    return [
        None
        if value is None
        else value + sum(weight * (given[i] or 0.0) for (_, weight), given in zip(extra_rewards, values, strict=True))
        for i, value in enumerate(judged)
    ]
