"""HTTP client of a judge service. Needs neither torch nor Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.reward.client.client import KEY_VARIABLE, JudgeClient

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.reward.client.client": ["KEY_VARIABLE", "JudgeClient"],
    },
)

__all__ = ["KEY_VARIABLE", "JudgeClient"]
