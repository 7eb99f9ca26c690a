"""JSON as other parsers read it."""

from __future__ import annotations

import json
from typing import Any


def parse_strictly(text: str | bytes) -> Any:
    """Parse JSON; fails at NaN and infinities, which Python accepts."""
    return json.loads(text, parse_constant=_reject_constant)


def _reject_constant(name: str) -> Any:
    raise AssertionError(f"{name} is no JSON")
