"""What a judgment is, and the judge that makes one.

Importing this package loads no model library; the judge's own module is loaded when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from judges.errors import JudgeError, UsageError
from judges.judgments import Judgment, Status, Usage, Verdict
from judges.media import Media
from judges.types import Comparison, Message

if TYPE_CHECKING:
    from judges.engines.base import EngineConfig
    from judges.flex import FlexJudge
    from judges.settings import JudgeConfig, JudgeSettings

_LAZY = {
    "EngineConfig": "judges.engines.base",
    "FlexJudge": "judges.flex",
    "JudgeConfig": "judges.settings",
    "JudgeSettings": "judges.settings",
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
        raise AttributeError(f"module 'judges' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
