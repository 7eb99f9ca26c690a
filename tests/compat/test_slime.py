"""slime gets rewards over HTTP and from its custom reward function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_slime_trains_on_rewards_of_the_judge(run_driver: Callable[..., list[dict[str, Any]]]) -> None:
    run_driver("slime")
