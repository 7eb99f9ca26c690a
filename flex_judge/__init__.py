"""Flex-Judge: a reasoning multimodal judge as a reward model.

This package exports the public API. Each name is imported on first use, so importing the package loads neither torch
nor Ray.

Example:
    >>> from flex_judge import Comparison
    >>> Comparison.of("What is 2 + 2?", "4", "5").responses
    ('4', '5')
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge import models as models
from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.judges.judgments import Judgment, Status
    from flex_judge.judges.types import Comparison, Message
    from flex_judge.reward.client.client import JudgeClient
    from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward

    # For type checkers. At runtime, `__getattr__` computes the list, because verifiers reads it to find its plug-ins.
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

__version__ = "0.1.0"

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.judges.judge": ["FlexJudge"],
        "flex_judge.judges.judgments": ["Judgment", "Status"],
        "flex_judge.judges.types": ["Comparison", "Message"],
        "flex_judge.reward.client.client": ["JudgeClient"],
        "flex_judge.reward.trl": ["AsyncJudgeReward", "JudgeReward"],
    },
    plugins={"verifiers.v1.judge": {"flex_judge.reward.verifiers": ["JudgedGroupEnv", "TraceJudge"]}},
    defined=["__version__"],
)
