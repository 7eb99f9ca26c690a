"""Context of a training run: its id, its metrics, and extra reward functions."""

from __future__ import annotations

import inspect
import logging
import math
import os
import reprlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any
from uuid import uuid4

from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.judges.validation.floats import convert_to_float, read_optional_float, require_finite_float
from flex_judge.reward.types import Reward

MAX_UNSCORED_CALLS, MIN_UNSCORED_COMPLETIONS = 5, 20
"""A run ends after this many consecutive calls without any score, if they had at least this many completions."""


def compute_judge_metrics(rewards: Sequence[Reward], seconds: float) -> dict[str, float]:
    """Compute the metrics of one call; all values are finite.

    Shares are of all completions: `scored`, one `status_...` for each status, and `whole` (judged in time and in a
    complete group). Token counts are means per completion. `latency_s` is the duration of the call in seconds.
    `score_mean` and `disagreement` (between response orders) are missing if no completion has them.

    Args:
        rewards: the rewards of the call.
        seconds: the duration of the call.
    """
    count = max(1, len(rewards))
    metrics = {f"status_{status}": sum(r.status == status for r in rewards) / count for status in Status}
    metrics["scored"] = sum(r.value is not None for r in rewards) / count
    metrics["whole"] = sum(r.is_whole for r in rewards) / count
    metrics["latency_s"] = seconds
    for name in ("prompt_tokens", "cached_tokens", "generated_tokens"):
        metrics[name] = sum(getattr(r.usage, name) for r in rewards) / count
    means = {
        "score_mean": compute_mean(r.score for r in rewards),
        "disagreement": compute_mean(r.disagreement for r in rewards),
    }
    return metrics | {name: mean for name, mean in means.items() if mean is not None}


def build_completion_columns(rewards: Sequence[Reward]) -> dict[str, list[Any]]:
    """Build the columns of a completion log: reasoning (or failure detail), status, and written score."""
    return {
        "reasoning": [r.reasoning or r.detail for r in rewards],
        "status": [str(r.status) for r in rewards],
        "score": [r.score for r in rewards],
    }


def count_statuses(rewards: Sequence[Reward]) -> str:
    """Count the statuses of rewards, as text such as `ok: 3, timeout: 1`."""
    return ", ".join(f"{status}: {count}" for status, count in Counter(r.status for r in rewards).items())


class UnscoredStreak:
    """Counter of consecutive calls without any score. It ends a run that would learn nothing."""

    def __init__(self) -> None:
        self._calls = self._completions = 0

    def check_rewards(self, rewards: Sequence[Reward]) -> str:
        """Count a call.

        Returns:
            The problem if no completion has a score; else empty text.

        Raises:
            UnscoredError: this was the last of MAX_UNSCORED_CALLS such calls.
        """
        if not rewards or any(r.value is not None for r in rewards):
            self._calls = self._completions = 0
            return ""
        self._calls, self._completions = self._calls + 1, self._completions + len(rewards)
        reason = next((r.detail for r in rewards if r.detail), None) or rewards[0].status
        problem = f"no score for any of {len(rewards)} completions ({count_statuses(rewards)}): {reason}"
        if self._calls >= MAX_UNSCORED_CALLS and self._completions >= MIN_UNSCORED_COMPLETIONS:
            raise UnscoredError(
                f"the judge has scored nothing in {self._calls} calls in a row; in the last call, {problem}"
            )
        return problem


def compute_mean(values: Iterable[float | None]) -> float | None:
    """Compute the mean of the values that are not None; None without values."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


logger = logging.getLogger(__name__)
_warned_functions: set[str] = set()
_LOCK = threading.Lock()
_names: list[str] = []


def get_run_id() -> str:
    """Return the id of this training run: equal on all ranks, new after each start.

    The first call is a collective broadcast if torch.distributed is initialized, so all ranks must make it. They do
    when their trainer computes rewards in the same step.
    """
    # Two reward functions that run concurrently must not broadcast in a different order on each rank.
    with _LOCK:
        if not _names:
            _names.append(_broadcast_name(uuid4().hex[:16]))
        return _names[0]


def count_ranks() -> int:
    """Count the training processes."""
    distributed = _get_distributed()
    return int(distributed.get_world_size()) if distributed else int(os.environ.get("WORLD_SIZE") or 1)


def is_first_rank() -> bool:
    """Return whether this is the training process with rank 0."""
    distributed = _get_distributed()
    return distributed is None or distributed.get_rank() == 0


def wait_for_ranks() -> None:
    """Wait until all training processes call this; they must do so in the same step."""
    distributed = _get_distributed()
    if distributed is not None:
        distributed.barrier()


def _broadcast_name(name: str) -> str:
    distributed = _get_distributed()
    if distributed is None or distributed.get_world_size() == 1:
        return name
    names = [name]
    distributed.broadcast_object_list(names, src=0)
    return str(names[0])


def _get_distributed() -> Any:
    """Return torch.distributed if it is initialized, else None.

    It is not imported here: a trainer that uses it has imported it already, and the client must stay free of torch.
    """
    torch = sys.modules.get("torch.distributed")
    return torch if torch is not None and torch.is_available() and torch.is_initialized() else None


ExtraRewards = Sequence[tuple[Callable[..., Any], float]]
"""Pairs of a reward function (called as by TRL's trainers) and its weight."""


def check_extra_rewards(extra_rewards: ExtraRewards) -> list[tuple[Callable[..., Any], float]]:
    """Check that each entry is a pair of a function and a finite number.

    Returns:
        The pairs, with the weights as floats.

    Raises:
        UsageError: an entry is something else.
    """
    pairs = []
    for pair in extra_rewards:
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not callable(pair[0]):
            raise UsageError(f"extra_rewards: expected pairs of a reward function and its weight, got {pair!r}")
        function, weight = pair
        pairs.append(
            (function, require_finite_float(weight, f"extra_rewards: weight of {get_function_name(function)}"))
        )
    return pairs


def get_function_name(function: Callable[..., Any]) -> str:
    """Return the name of a reward function in the logs."""
    return str(getattr(function, "__name__", type(function).__name__))


def call_reward(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[float | None]:
    """Call a synchronous reward function, and check its values, see `check_values`.

    Raises:
        UsageError: the function is asynchronous, or a value is not a finite number.
    """
    values = function(*args, **kwargs)
    if inspect.isawaitable(values):
        if inspect.iscoroutine(values):
            values.close()  # avoids Python's warning about a coroutine that was never awaited
        raise UsageError(f"extra_rewards: {get_function_name(function)} has to be awaited; use AsyncJudgeReward")
    return check_values(function, values)


async def acall_reward(function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[float | None]:
    """Call a synchronous or asynchronous reward function, and check its values, see `check_values`."""
    values = function(*args, **kwargs)
    return check_values(function, await values if inspect.isawaitable(values) else values)


def check_values(function: Callable[..., Any], values: Any) -> list[float | None]:
    """Convert the values of another reward function to plain floats.

    None and NaN mean that the function does not apply to a completion, as in TRL. The first NaN of a function is
    logged.

    Raises:
        UsageError: the values are no sequence, or one of them is infinite or not a number; the message names the
            function and the position.
    """
    name = get_function_name(function)
    # A tensor without dimensions is iterable by its type only.
    is_single = isinstance(values, str | bytes | Mapping | Set) or getattr(values, "ndim", 1) == 0
    if is_single or not isinstance(values, Iterable):
        raise UsageError(f"extra_rewards: {name} returned {reprlib.repr(values)}; expected a list of numbers")
    checked: list[float | None] = []
    for i, value in enumerate(values):
        try:
            number = None if value is None else convert_to_float(value)
        except UsageError as e:
            raise UsageError(f"extra_rewards: value [{i}] of {name}: {e}; return a number or None") from e
        if number is not None and math.isinf(number):
            raise UsageError(
                f"extra_rewards: value [{i}] of {name}: expected a finite number, got {number}; return None where the "
                "function does not apply"
            )
        if number is not None and math.isnan(number):
            _warn_of_nan(name, i)
            number = None
        checked.append(number)
    return checked


def _warn_of_nan(name: str, position: int) -> None:
    if name not in _warned_functions:
        _warned_functions.add(name)
        logger.warning(
            "extra_rewards: value [%d] of %s is NaN, which counts as None: the function does not apply to this "
            "completion. Further cases are not reported",
            *(position, name),
        )


def add_rewards(
    judged: Sequence[float | None], extra_rewards: ExtraRewards, extra_values: Sequence[Sequence[float | None]]
) -> list[float | None]:
    """Add weighted extra rewards to the judge's rewards.

    None from the judge stays None. None or NaN from an extra function means that it does not apply, and adds nothing.

    Args:
        judged: the judge's reward of each completion.
        extra_rewards: the extra functions and their weights.
        extra_values: the values of each extra function.

    Raises:
        UsageError: a function returned a wrong number of values, or a value or a sum is not a finite number.
    """
    totals = [read_optional_float(value, f"reward of completion [{i}]") for i, value in enumerate(judged)]
    for (function, weight), foreign_values in zip(extra_rewards, extra_values, strict=True):
        name, values = get_function_name(function), check_values(function, foreign_values)
        if len(values) != len(judged):
            raise UsageError(f"extra_rewards: {name} gave {len(values)} values for {len(judged)} completions")
        for i, (total, value) in enumerate(zip(totals, values, strict=True)):
            if total is not None and value is not None:
                totals[i] = require_finite_float(
                    total + weight * value, f"extra_rewards: completion [{i}] with the value of {name}"
                )
    return totals
