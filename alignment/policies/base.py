"""The one seam to policies: a prompt in, so many completions out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.types import Message


@dataclass(frozen=True)
class Completion:
    """One sample of a policy."""

    text: str
    """Without what ended it."""
    tokens: int
    """Generated tokens."""
    cut: bool
    """Whether it was cut off at `Sampling.max_tokens`."""


@runtime_checkable
class Policy(Protocol):
    """A model that is to be made better. Samples many prompts at once when asked for many at once."""

    model_id: str
    """Name, and where there is one, fingerprint of the model."""

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """Sample completions of one prompt. Cancelling the call gives the work up.

        Args:
            prompt: the conversation, which ends with the message to be answered.
            sampling: how to sample. Of several draws at temperature 0 all would be the same, so that is refused.
            sample_indices: the number of each completion that is wanted. With `sampling.seed`, the same number of
            the same
                prompt gives the same completion.

        Returns:
            One completion for each number, in their order.

        Raises:
            UsageError: the prompt cannot be answered as it is: it is too long, or has media that the model takes none
                of.
            EngineLostError: the model died or cannot be reached; another try may succeed.
        """
        ...

    async def check_health(self) -> None:
        """Raise EngineLostError if the policy can no longer answer."""
        ...

    def close(self) -> None:
        """Let go of the model. Idempotent."""
        ...
