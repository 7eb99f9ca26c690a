"""verl calls the judge through its own reward path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_verl_gets_rewards_of_the_judge(run_driver: Callable[..., list[dict[str, Any]]]) -> None:
    run_driver("verl")
