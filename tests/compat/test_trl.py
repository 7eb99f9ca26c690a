"""TRL's trainers call the judge through its reward functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_trl_trains_with_rewards_of_the_judge(run_driver: Callable[..., list[dict[str, Any]]]) -> None:
    run_driver("trl")
