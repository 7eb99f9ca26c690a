"""The judge: scores comparisons and returns judgments.

Importing this package loads no model library. May not import reward, alignment or experiments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.judges.engines.base import EngineConfig
    from flex_judge.judges.errors import EngineLostError, JudgeError, UsageError
    from flex_judge.judges.judge import FlexJudge
    from flex_judge.judges.judgments import Judgment, Status, Usage, Verdict
    from flex_judge.judges.media.types import Media
    from flex_judge.judges.models import resolve_model
    from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
    from flex_judge.judges.rubrics import list_rubrics, load_rubric
    from flex_judge.judges.rubrics.rubric import Rubric
    from flex_judge.judges.types import Comparison, Message, ToolCall, Trajectory

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.judges.engines.base": ["EngineConfig"],
        "flex_judge.judges.errors": ["EngineLostError", "JudgeError", "UsageError"],
        "flex_judge.judges.judge": ["FlexJudge"],
        "flex_judge.judges.judgments": ["Judgment", "Status", "Usage", "Verdict"],
        "flex_judge.judges.media.types": ["Media"],
        "flex_judge.judges.models": ["resolve_model"],
        "flex_judge.judges.protocol.settings": ["JudgeConfig", "JudgeSettings"],
        "flex_judge.judges.rubrics": ["load_rubric", "list_rubrics"],
        "flex_judge.judges.rubrics.rubric": ["Rubric"],
        "flex_judge.judges.types": ["Comparison", "Message", "ToolCall", "Trajectory"],
    },
)

__all__ = [
    "Comparison",
    "EngineConfig",
    "EngineLostError",
    "FlexJudge",
    "JudgeConfig",
    "JudgeError",
    "JudgeSettings",
    "Judgment",
    "Media",
    "Message",
    "Rubric",
    "Status",
    "ToolCall",
    "Trajectory",
    "Usage",
    "UsageError",
    "Verdict",
    "list_rubrics",
    "load_rubric",
    "resolve_model",
]
