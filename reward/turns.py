"""Rewards of the turns and steps of a trajectory.

A turn is one assistant message. A step is one assistant message with the results of its tool calls. Each is judged as
the response to the conversation before it, so its score does not depend on what happens later.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from operator import mul
from typing import Literal, get_args

from flex_judge.judges.conversations.messages import ASSISTANT, Message, Response, Trajectory
from flex_judge.judges.conversations.openai import response_to_messages
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status, Usage
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

Granularity = Literal["response", "turn", "step"]
GRANULARITIES: tuple[Granularity, ...] = get_args(Granularity)
"""Part of a completion that is judged.

- `response`: the whole completion.
- `turn`: each assistant message, with its reasoning and tool calls.
- `step`: each assistant message, and the messages after it that are results of its tool calls.
"""
Combination = Literal["mean", "last", "discounted"]
COMBINATIONS: tuple[Combination, ...] = get_args(Combination)
"""How the rewards of turns become the reward of their completion.

- `mean`: mean over the turns.
- `last`: the last turn; the other turns are not judged.
- `discounted`: the discounted return `r_0 + d r_1 + d^2 r_2 + ...`, divided by the sum of its weights. Without the
  division, more turns would mean a higher reward.
"""
SPEAKERS = (ASSISTANT, "user", "system", "developer")
"""Roles that end a step. Messages of other roles (`tool`, `function`, `ipython`, `environment`) are results."""
NO_TURN = "the completion has no assistant message, so there is no turn to judge"


def check_turn_spec(spec: RewardSpec, granularity: Granularity) -> None:
    """Check that turns can be judged with these settings.

    Raises:
        UsageError: the granularity is unknown, or the settings compare completions with each other: turns of different
            completions answer different conversations.
    """
    if granularity not in GRANULARITIES:
        raise UsageError.of_setting(
            "granularity", f"granularity must be one of {', '.join(GRANULARITIES)}, not {granularity!r}"
        )
    if granularity != "response" and (spec.method != "pointwise" or spec.needs_group):
        raise UsageError.of_setting(
            "granularity",
            f"granularity {granularity!r} scores each {granularity} after its own conversation, so completions cannot "
            "be compared with each other; use method 'pointwise', reward 'expected' or 'score', and normalize 'none'",
        )


def split_sample(sample: Sample, granularity: Granularity) -> list[Sample]:
    """Split the sample of a completion into one sample per turn or step.

    The prompt of each sample is the conversation before it. Messages before the first assistant message, and messages
    of a user in between, are context only.

    Returns:
        The samples in order; empty if the completion has no assistant message. A sample that cannot be judged is
        unchanged.

    Example:
        >>> sample = Sample((Message("user", "Hi"),), Trajectory((Message("assistant", "A"), Message("user", "B"))))
        >>> [turn.response for turn in split_sample(sample, "turn")]
        ['A']
    """
    if granularity == "response" or sample.problem:
        return [sample]
    messages = response_to_messages(sample.response)
    samples = []
    for start, message in enumerate(messages):
        if message.role != ASSISTANT:
            continue
        end = start + 1
        while granularity == "step" and end < len(messages) and messages[end].role not in SPEAKERS:
            end += 1
        context = (*sample.prompt, *messages[:start])
        samples.append(replace(sample, prompt=context, response=_build_response(messages[start:end]), baseline=None))
    return samples


def _build_response(messages: Sequence[Message]) -> Response:
    """Return the content of a single plain message, as the reader does, else a trajectory."""
    if len(messages) == 1 and messages[0].is_plain:
        return messages[0].content
    return Trajectory(tuple(messages))


def combine_rewards(turns: Sequence[Reward], combination: Combination, discount: float = 1.0) -> Reward:
    """Combine the rewards of a completion's turns to one.

    Args:
        turns: the rewards of the turns in order.
        combination: see `COMBINATIONS`.
        discount: factor between two turns, for `discounted`.

    Returns:
        The reward. It has no value if one of the turns has none: the mean of the others would be a made-up number.
    """
    if not turns:
        return Reward(None, Status.INVALID_INPUT, detail=NO_TURN)
    if len(turns) == 1 or combination == "last":
        return turns[-1]
    reasoning = "\n\n".join(f"[{i}] {turn.reasoning or turn.detail}" for i, turn in enumerate(turns, start=1))
    shared = Reward(
        None,
        Status.OK,
        reasoning=reasoning,
        group=GroupInfo(1, None),
        judgments=sum(turn.judgments for turn in turns) if all(turn.is_whole for turn in turns) else 0,
        usage=sum((turn.usage for turn in turns), Usage()),
        model=next((turn.model for turn in turns if turn.model), ""),
    )
    for number, turn in enumerate(turns, start=1):
        if turn.value is None:
            return replace(shared, status=turn.status, detail=f"turn {number} of {len(turns)}: {turn.detail}")
    discount = discount if combination == "discounted" else 1.0
    value, score, expected = (
        _compute_weighted_mean([getattr(turn, name) for turn in turns], discount)
        for name in ("value", "score", "expected")
    )
    return replace(shared, value=value, score=score, expected=expected)


def _compute_weighted_mean(values: Sequence[float | None], discount: float) -> float | None:
    """Compute the mean with the weights 1, d, d^2, ...; None if a value is missing."""
    weights = list(accumulate(repeat(discount, len(values) - 1), mul, initial=1.0))
    numbers = [value for value in values if value is not None]
    if len(numbers) < len(values):
        return None
    return sum(weight * number for weight, number in zip(weights, numbers, strict=True)) / sum(weights)


class TurnMethods(ABC):
    """Methods of a judge that compute the rewards of single turns or steps."""

    @abstractmethod
    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        """Compute the rewards of samples, in order."""

    @abstractmethod
    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        """Compute rewards from code without an event loop, see `rewards`."""

    async def turn_rewards(
        self, samples: Sequence[Sample], spec: RewardSpec | None = None, granularity: Granularity = "turn"
    ) -> list[list[Reward]]:
        """Compute the rewards of the turns or steps of samples.

        Args:
            samples: completions; the response of a sample with several turns is a `Trajectory`.
            spec: how each turn is judged; the method must be `pointwise`, because turns of different completions
                answer different conversations.
            granularity: `turn` for each assistant message, or `step` for each with its tool results.

        Returns:
            For each sample the rewards of its turns in order. A text has one turn.

        Raises:
            UsageError: the settings compare completions.
            JudgeError: the errors of `rewards`.

        Example:
            >>> sample = Sample(prompt, Trajectory((call, result, answer)))
            >>> [[turn.value for turn in turns] for turns in await client.turn_rewards([sample])]
            [[7.5, 8.2]]
        """
        spec = spec or RewardSpec()
        check_turn_spec(spec, granularity)
        turns = [split_sample(sample, granularity) for sample in samples]
        return regroup_rewards(turns, await self.rewards(flatten_turns(turns), spec))

    def turn_rewards_sync(
        self, samples: Sequence[Sample], spec: RewardSpec | None = None, granularity: Granularity = "turn"
    ) -> list[list[Reward]]:
        """Compute the rewards of turns from code without an event loop, see `turn_rewards`."""
        spec = spec or RewardSpec()
        check_turn_spec(spec, granularity)
        turns = [split_sample(sample, granularity) for sample in samples]
        return regroup_rewards(turns, self.rewards_sync(flatten_turns(turns), spec))


def flatten_turns(turns_by_sample: Sequence[Sequence[Sample]]) -> list[Sample]:
    """List the turns of all samples."""
    return [turn for turns in turns_by_sample for turn in turns]


def regroup_rewards(turns_by_sample: Sequence[Sequence[Sample]], rewards: Sequence[Reward]) -> list[list[Reward]]:
    """Assign the rewards of all turns to the samples that the turns belong to."""
    remaining = iter(rewards)
    return [[next(remaining) for _ in turns] for turns in turns_by_sample]
