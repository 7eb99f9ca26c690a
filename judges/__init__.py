"""What a judgment is, and the judge that makes one.

Importing this package loads no model library; the judge's own module is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import JudgeError, UsageError
from flex_judge.judges.judgments import Judgment, Status, Usage, Verdict
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Comparison, Message

if TYPE_CHECKING:
    from flex_judge.judges.engines.base import EngineConfig
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings

_LAZY = {
    "EngineConfig": "flex_judge.judges.engines.base",
    "FlexJudge": "flex_judge.judges.judge",
    "JudgeConfig": "flex_judge.judges.protocol.settings",
    "JudgeSettings": "flex_judge.judges.protocol.settings",
}

__all__ = [
    "Comparison",
    "EngineConfig",
    "FlexJudge",
    "JudgeConfig",
    "JudgeError",
    "JudgeSettings",
    "Judgment",
    "Media",
    "Message",
    "Status",
    "Usage",
    "UsageError",
    "Verdict",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
