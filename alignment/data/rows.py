"""Rows of a data run: a prompt, and a prompt with the responses of a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.types import Message

MOLECULE_MARK = "<mol>"
"""Marks the position of a molecule in a text."""


@dataclass(frozen=True)
class PromptRow:
    """One row of a data set of prompts."""

    id: str
    """Id of the prompt, unique within the run; results are matched to it by id, never by position."""
    prompt: tuple[Message, ...]
    """The conversation to answer, including media; its last message is the question."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """JSON values of columns that are copied to the results, such as a reference answer."""
    where: str = ""
    """File and row for messages."""


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt with the responses of a policy."""

    row: PromptRow
    """The prompt."""
    responses: tuple[str, ...]
    """Sampled responses."""
    temperatures: tuple[float, ...]
    """Sampling temperature of each response."""
    tokens: tuple[int, ...] = ()
    """Number of generated tokens of each response."""
    cut: tuple[bool, ...] = ()
    """Whether each response was cut off at the maximum number of tokens."""
    policy: str = ""
    """Name and fingerprint of the model that generated the responses."""
