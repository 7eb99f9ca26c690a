"""Flex-Judge: a reasoning multimodal judge as a reward model.

The public API. Importing this package loads neither torch nor ray; each name is loaded on first use.

Example:
    >>> from flex_judge import Comparison
    >>> Comparison("What is 2 + 2?", ["4", "5"]).responses
    ('4', '5')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.judges.judgments import Judgment, Status
    from flex_judge.judges.types import Comparison, Message
    from flex_judge.reward.client.client import JudgeClient
    from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward

__version__ = "0.1.0"

_LAZY = {
    "FlexJudge": "flex_judge.judges.judge",
    "Comparison": "flex_judge.judges.types",
    "Message": "flex_judge.judges.types",
    "Judgment": "flex_judge.judges.judgments",
    "Status": "flex_judge.judges.judgments",
    "JudgeReward": "flex_judge.reward.trl",
    "AsyncJudgeReward": "flex_judge.reward.trl",
    "JudgeClient": "flex_judge.reward.client.client",
}

__all__ = [
    "AsyncJudgeReward",
    "Comparison",
    "FlexJudge",
    "JudgeClient",
    "JudgeReward",
    "Judgment",
    "Message",
    "Status",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
