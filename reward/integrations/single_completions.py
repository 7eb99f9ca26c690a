"""Shared by trainers that pass one completion per call: groups across calls, numbers for unscored completions."""

from __future__ import annotations

import math
from typing import Literal

from flex_judge.judges.errors import UnscoredError, UsageError
from flex_judge.reward.types import Reward, RewardSpec

GROUP_KEY, GROUP_SIZE_KEY, ROLLOUT_PROMPT_KEY = "uid", "rollout_n", "raw_prompt"
"""Keys that verl's `JudgeRewardManager` adds to `extra_info`: id and size of the group, and the rollout's messages."""
Unscored = Literal["nan", "mean", "raise"]
"""Value of an unscored completion: NaN, the mean of its group, or an error."""


def require_group_size(spec: RewardSpec, fix: str) -> None:
    """Refuse a comparison of completions whose number is not known: each would be judged alone.

    Args:
        spec: how completions become rewards.
        fix: what the user has to do.

    Raises:
        UsageError: the rewards need a group, and its size is not set.
    """
    if spec.needs_group and spec.group_size is None:
        raise UsageError(
            "group_size is missing: completions are compared with each other, and the trainer passes one per call; "
            + fix
        )


def get_fill_value(unscored: str, spec: RewardSpec) -> float | None:
    """Return the reward of an unscored completion; None if it is an error.

    Raises:
        UsageError: the setting is unknown, or the mean of a group is not a known number.
    """
    if unscored == "mean" and spec.normalize == "none":
        raise UsageError("unscored='mean' needs normalize 'center' or 'standardize': only then is 0 a group's mean")
    fill_values = {"nan": math.nan, "mean": 0.0, "raise": None}
    if unscored not in fill_values:
        raise UsageError(f"unscored must be one of {', '.join(fill_values)}, not {unscored!r}")
    return fill_values[unscored]


def choose_value(reward: Reward, fill_value: float | None) -> float:
    """Return the value of a reward, or the fill value of an unscored completion.

    Raises:
        UnscoredError: there is neither.
    """
    value = fill_value if reward.value is None else reward.value
    if value is None:
        raise UnscoredError(f"a completion has no score ({reward.status}: {reward.detail}), and unscored is 'raise'")
    return value
