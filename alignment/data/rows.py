"""What travels through a run: a prompt, and the prompt with the answers that a policy gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.types import Message

MOLECULE_MARK = "<mol>"
"""Marks the place of a molecule in a text."""


@dataclass(frozen=True)
class PromptRow:
    """One row of a data set of prompts."""

    id: str
    """Identity within the run; results are matched by it, never by position."""
    prompt: tuple[Message, ...]
    """The conversation to be answered, media and all; its last message is the question."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are carried along into the results, as JSON holds them: an answer that is known to be right, say."""
    where: str = ""
    """File and row, for messages."""


@dataclass(frozen=True)
class SampledPrompt:
    """A prompt with the answers of a policy."""

    row: PromptRow
    responses: tuple[str, ...]
    temperatures: tuple[float, ...]
    """At which each response was sampled."""
    tokens: tuple[int, ...] = ()
    """Generated tokens of each response."""
    cut: tuple[bool, ...] = ()
    """Whether each response was cut off at its most tokens."""
    policy: str = ""
    """Name and fingerprint of the model that answered."""
