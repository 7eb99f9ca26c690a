"""Numbers for unscored completions, for trainers whose reward function has to return one."""

from __future__ import annotations

import math
from typing import Literal

from flex_judge.judges.errors import UsageError
from flex_judge.reward.types import RewardSpec

Unscored = Literal["nan", "mean", "raise"]
"""Value of an unscored completion: NaN, the mean of its group, or an error."""


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
