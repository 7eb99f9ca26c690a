"""Judgments as rewards: trainer adapters, the HTTP client, and the judge service on Ray Serve.

Importing this package loads neither Ray nor a trainer. May import `flex_judge.judges`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.reward.client.client import JudgeClient
    from flex_judge.reward.integrations.scoring import ConversationScorer
    from flex_judge.reward.serving.cluster import connect
    from flex_judge.reward.serving.config import ServiceConfig
    from flex_judge.reward.serving.service import JudgeService
    from flex_judge.reward.settings import RewardSettings
    from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward
    from flex_judge.reward.types import Reward, RewardSpec, Sample

# Resolved on first access, so that a trainer's process imports the client without Ray or a model library.
__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.reward.client.client": ["JudgeClient"],
        "flex_judge.reward.integrations.scoring": ["ConversationScorer"],
        "flex_judge.reward.serving.cluster": ["connect"],
        "flex_judge.reward.serving.config": ["ServiceConfig"],
        "flex_judge.reward.serving.service": ["JudgeService"],
        "flex_judge.reward.settings": ["RewardSettings"],
        "flex_judge.reward.trl": ["AsyncJudgeReward", "JudgeReward"],
        "flex_judge.reward.types": ["Reward", "RewardSpec", "Sample"],
    },
)

__all__ = [
    "AsyncJudgeReward",
    "ConversationScorer",
    "JudgeClient",
    "JudgeReward",
    "JudgeService",
    "Reward",
    "RewardSettings",
    "RewardSpec",
    "Sample",
    "ServiceConfig",
    "connect",
]
