"""verifiers finds the judge by its id and scores traces with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.compat, pytest.mark.slow]


def test_verifiers_judges_traces(run_driver: Callable[..., list[dict[str, Any]]]) -> None:
    run_driver("verifiers")
