"""Lengths of completions: their count, a penalty for long ones, and the dependence of rewards on length."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from flex_judge.judges.conversations.messages import ASSISTANT, Response, split_content
from flex_judge.judges.conversations.openai import response_to_messages
from flex_judge.reward.settings import RewardSettings


def count_words(response: Response) -> int:
    """Count the words of a response, separated by white space.

    In a trajectory, only assistant messages count, with their content, reasoning and arguments of tool calls.
    """
    count = 0
    for message in response_to_messages(response):
        if message.role == ASSISTANT:
            texts = [part for part in split_content(message.content) if isinstance(part, str)]
            texts += [message.reasoning, *(call.arguments for call in message.tool_calls)]
            count += sum(len(text.split()) for text in texts)
    return count


def has_results(response: Response) -> bool:
    """Return whether a response has messages that the policy did not write, such as tool results."""
    return any(message.role != ASSISTANT for message in response_to_messages(response))


def compute_length_penalty(length: float, settings: RewardSettings) -> float:
    """Compute the amount to subtract from the reward of a completion of this length.

    It is linear beyond the limit, `length_penalty * max(0, length - length_limit)`, and at most `max_length_penalty`.
    With `length_penalty = 1 / cache`, `length_limit = max_length - cache` and `max_length_penalty = 1` it is the soft
    overlong punishment of DAPO (arXiv 2503.14476, equation 13).
    """
    if settings.length_limit is None:
        return 0.0
    penalty = settings.length_penalty * max(0.0, length - settings.length_limit)
    return penalty if settings.max_length_penalty is None else min(penalty, settings.max_length_penalty)


@dataclass(frozen=True)
class LengthRegression:
    """Least-squares regression of the reward on the length, within the completions of a prompt."""

    slope: float
    """Change of the reward per word or token."""
    correlation: float | None
    """Pearson correlation; None if all rewards of each prompt are equal."""


def regress_on_length(
    rewards: Sequence[float | None], lengths: Sequence[float | None], prompts: Sequence[Hashable]
) -> LengthRegression | None:
    """Fit the dependence of rewards on lengths.

    Rewards and lengths are taken relative to the means of their prompt: harder questions have longer answers, and a
    trainer compares the completions of one prompt only.

    Args:
        rewards: rewards of the completions; those without one are left out.
        lengths: lengths of the completions; unknown ones are left out.
        prompts: prompt of each completion, or any value that identifies it.

    Returns:
        None if the lengths within each prompt are equal.
    """
    points_by_prompt: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)
    for reward, length, prompt in zip(rewards, lengths, prompts, strict=True):
        if reward is not None and length is not None:
            points_by_prompt[prompt].append((length, reward))
    xs: list[float] = []
    ys: list[float] = []
    for points in points_by_prompt.values():
        mean_length, mean_reward = (math.fsum(axis) / len(points) for axis in zip(*points, strict=True))
        # Rounding errors of the mean would pass for differences between equal rewards.
        is_constant = len({reward for _, reward in points}) == 1
        xs += [length - mean_length for length, _ in points]
        ys += [0.0 if is_constant else reward - mean_reward for _, reward in points]
    variation = math.fsum(x * x for x in xs)
    if variation == 0:
        return None
    covariation, spread = math.fsum(x * y for x, y in zip(xs, ys, strict=True)), math.fsum(y * y for y in ys)
    correlation = max(-1.0, min(1.0, covariation / math.sqrt(variation * spread))) if spread > 0 else None
    return LengthRegression(covariation / variation, correlation)
