"""Policies: the models to be trained, which sample completions of prompts.

May import judges and the reward client, but no other package of alignment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.alignment.policies.base import Completion, Policy
    from flex_judge.alignment.policies.config import PolicyConfig, check_policy, list_policy_names, load_policy
    from flex_judge.alignment.policies.engine import EnginePolicy
    from flex_judge.alignment.policies.openai import OpenAIPolicy

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.alignment.policies.base": ["Completion", "Policy"],
        "flex_judge.alignment.policies.config": ["PolicyConfig", "check_policy", "load_policy", "list_policy_names"],
        "flex_judge.alignment.policies.engine": ["EnginePolicy"],
        "flex_judge.alignment.policies.openai": ["OpenAIPolicy"],
    },
)

__all__ = [
    "Completion",
    "EnginePolicy",
    "OpenAIPolicy",
    "Policy",
    "PolicyConfig",
    "check_policy",
    "list_policy_names",
    "load_policy",
]
