"""Interface of policies: sample completions of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.types import Message, Response, content_to_text


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    Example:
        >>> Completion("It is 5.", tokens=4, cut=False).text
        'It is 5.'
    """

    response: Response
    """Text without the stop string, or a trajectory if the model called tools or its reasoning is known."""
    tokens: int
    """Number of generated tokens."""
    cut: bool
    """Whether the completion was truncated at `Sampling.max_tokens`."""
    note: str = ""
    """How the prompt differs from the model's own form, such as tools as text; empty if it does not."""

    @property
    def text(self) -> str:
        """Text of the response, with roles and calls if it is a trajectory."""
        return content_to_text(self.response)


@runtime_checkable
class Policy(Protocol):
    """Model whose completions are sampled. Handles concurrent calls, each for one prompt."""

    model_id: str
    """Name of the model, with its fingerprint if there is one."""

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """Sample completions of one prompt. Cancelling the call cancels the work.

        Args:
            prompt: The conversation, ending with the message to answer.
            sampling: Sampling settings. Several samples at temperature 0 are rejected, because they would be identical.
            sample_indices: Index of each completion. With `sampling.seed`, the same index of the same prompt gives the
                same completion.

        Returns:
            One completion per index, in the same order.

        Raises:
            UsageError: The prompt is too long or has media that the model does not take.
            EngineLostError: The model crashed or is unreachable; a retry may succeed.
        """
        ...

    async def check_health(self) -> None:
        """Raise EngineLostError if the policy can no longer sample."""
        ...

    def close(self) -> None:
        """Release the model. Idempotent."""
        ...
