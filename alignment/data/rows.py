"""Rows of a data run: a prompt, and a prompt with the responses of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flex_judge.judges.conversations.messages import select_view
from flex_judge.judges.conversations.openai import (
    describe_medium,
    message_to_openai,
    response_to_openai,
    split_tools,
)
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.types import Message, Response, content_to_text

ANSWER_COLUMNS = ("chosen", "rejected")
"""Columns with the answers of a preference pair."""
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
    responses: tuple[Response, ...]
    """Sampled responses."""
    temperatures: tuple[float, ...]
    """Sampling temperature of each response."""
    tokens: tuple[int, ...] = ()
    """Number of generated tokens of each response."""
    cut: tuple[bool, ...] = ()
    """Whether each response was cut off at the maximum number of tokens."""
    policy: str = ""
    """Name and fingerprint of the model that generated the responses."""
    note: str = ""
    """How the policy's prompt differs from the model's own form, such as tools as text; empty if it does not."""


def prompt_to_json(prompt: Sequence[Message]) -> dict[str, Any]:
    """Convert a prompt to JSON values for a results file: `prompt`, and `tools` if it has definitions of tools.

    Messages are in OpenAI's format. Media are replaced by their modality and digest.
    """
    messages, tools = split_tools(prompt)
    columns: dict[str, Any] = {"prompt": [message_to_openai(message, describe_medium) for message in messages]}
    return columns | ({"tools": list(tools)} if tools else {})


def response_to_json(response: Response) -> Any:
    """Convert a response to JSON values for a results file: text, or messages in OpenAI's format."""
    return response_to_openai(response, describe_medium)


def read_response(value: Any) -> Response:
    """Read a response from a results file, see `response_to_json`.

    Raises:
        UsageError: the value has another form.
    """
    return value if isinstance(value, str) else ConversationReader(open_local_media).read_response(value)


def read_final_text(value: Any) -> str:
    """Read the text of the final answer from a response in a results file; calls and reasoning are no part of it.

    Raises:
        UsageError: the value has another form.
    """
    return content_to_text(select_view(read_response(value), "final"))
