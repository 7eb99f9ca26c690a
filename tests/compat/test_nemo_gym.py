"""NeMo-Gym verifies rollouts with the judge's resources server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_nemo_gym_verifies_rollouts(run_driver: Callable[..., list[dict[str, Any]]]) -> None:
    run_driver("nemo-gym")
