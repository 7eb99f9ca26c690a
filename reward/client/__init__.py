"""The client of a judge service over HTTP; needs neither torch nor Ray."""

from flex_judge.reward.client.client import KEY_VARIABLE, JudgeClient

__all__ = ["KEY_VARIABLE", "JudgeClient"]
