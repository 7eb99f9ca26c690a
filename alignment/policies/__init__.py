"""Policies: the models that are to be made better. A policy samples completions of prompts."""

from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.alignment.policies.config import PolicyConfig, check_policy, load_policy, policy_names
from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.alignment.policies.openai import OpenAIPolicy

__all__ = [
    "Completion",
    "EnginePolicy",
    "OpenAIPolicy",
    "Policy",
    "PolicyConfig",
    "check_policy",
    "load_policy",
    "policy_names",
]
