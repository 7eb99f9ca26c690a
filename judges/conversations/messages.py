"""Data types of conversations: messages, tool calls and trajectories. Plain, frozen and picklable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media

Part = str | Media
Content = str | tuple[Part, ...]
"""Content of a message or a response: text, or text and media in order."""
View = Literal["full", "final"]
VIEWS: tuple[View, ...] = get_args(View)
"""Part of a trajectory that the judge sees: every message, or the content of the final answer alone."""
ASSISTANT = "assistant"


@dataclass(frozen=True)
class ToolCall:
    """One call of a tool, as the model wrote it."""

    name: str
    arguments: str = ""
    """Arguments as JSON text, or any other text if the model wrote no JSON."""
    id: str = ""
    """Id that the result of the call repeats as its `tool_call_id`."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation. All its text is untrusted: control tokens in it are encoded as ordinary text."""

    role: str
    """`system`, `user`, `assistant`, `tool`, or another role of the data set."""
    content: Content = ""
    """Text and media."""
    name: str = field(default="", kw_only=True)
    """Name of the author, for example of the tool whose result this is."""
    tool_calls: tuple[ToolCall, ...] = field(default=(), kw_only=True)
    """Calls that the assistant makes in this message, after its content."""
    tool_call_id: str = field(default="", kw_only=True)
    """Id of the call whose result this is."""
    reasoning: str = field(default="", kw_only=True)
    """Reasoning that precedes the content."""
    tools: tuple[str, ...] = field(default=(), kw_only=True)
    """Definitions of the tools that the model may call from here on, each as JSON text."""

    @property
    def is_plain(self) -> bool:
        """Whether the message consists of role and content only."""
        return not (self.name or self.tool_calls or self.tool_call_id or self.reasoning or self.tools)

    @property
    def text_length(self) -> int:
        """Number of characters of content, reasoning and the arguments of tool calls."""
        content = sum(len(part) for part in _split(self.content) if isinstance(part, str))
        return content + len(self.reasoning) + sum(len(call.arguments) for call in self.tool_calls)

    def to_json(self) -> list[Any]:
        """Convert to JSON types for a digest, with media as their digests. Plain messages are `[role, content]`."""
        values: list[Any] = [self.role, content_to_json(self.content)]
        if not self.is_plain:
            calls = [[call.name, call.arguments, call.id] for call in self.tool_calls]
            values.append([self.name, calls, self.tool_call_id, self.reasoning, list(self.tools)])
        return values


@dataclass(frozen=True)
class Trajectory:
    """A response of several messages: answers, tool calls, their results, and what a user said in between."""

    messages: tuple[Message, ...]

    @property
    def final_answer(self) -> Content:
        """Content of the last assistant message with content; empty text without one."""
        for message in reversed(self.messages):
            if message.role == ASSISTANT and any(isinstance(p, Media) or p.strip() for p in _split(message.content)):
                return message.content
        return ""

    def to_parts(self) -> tuple[Part, ...]:
        """Convert to text and media in order, each message under a line with its role, for logs and statistics."""
        parts: list[Part] = []
        for message in self.messages:
            parts.append(("\n\n" if parts else "") + f"{message.role}{f' {message.name}' if message.name else ''}:\n")
            if message.reasoning:
                parts.append(f"{message.reasoning}\n\n")
            parts += _split(message.content)
            parts += [f"\n{call.name}({call.arguments})" for call in message.tool_calls]
        return merge_texts(parts)


Response = Content | Trajectory
"""A response: text, text and media, or a trajectory."""


def read_view(value: Any, field: str) -> View:
    """Return a view by its name.

    Raises:
        UsageError: there is no such view; the error has the field.
    """
    for view in VIEWS:
        if value == view:
            return view
    raise UsageError.at_field(field, f"expected one of {', '.join(VIEWS)}, got {value!r:.80}")


def select_view(response: Response, view: View) -> Response:
    """Return a trajectory unchanged, or its final answer; other responses are unchanged."""
    return response.final_answer if view == "final" and isinstance(response, Trajectory) else response


def split_content(content: Response) -> tuple[Part, ...]:
    """Split content into parts; plain text is one part, and a trajectory is written out, see `Trajectory.to_parts`."""
    return content.to_parts() if isinstance(content, Trajectory) else _split(content)


def content_to_text(content: Response) -> str:
    """Convert content to text, with each medium as its modality in brackets."""
    return "".join(p if isinstance(p, str) else f"[{p.modality}]" for p in split_content(content))


def content_to_json(content: Response) -> list[Any]:
    """Convert content to JSON types for a digest, with media as their digests."""
    if isinstance(content, Trajectory):
        return ["trajectory", [message.to_json() for message in content.messages]]
    return [["text", p] if isinstance(p, str) else ["media", p.digest] for p in _split(content)]


def has_media(messages: Sequence[Message]) -> bool:
    """Return whether any message has media."""
    return any(isinstance(part, Media) for message in messages for part in _split(message.content))


def add_tools(messages: Sequence[Message], tools: Sequence[str]) -> tuple[Message, ...]:
    """Add tool definitions to a conversation: to its system message, or to a new one without content."""
    if not tools:
        return tuple(messages)
    if messages and messages[0].role == "system":
        return (replace(messages[0], tools=(*messages[0].tools, *tools)), *messages[1:])
    return (Message("system", tools=tuple(tools)), *messages)


def merge_texts(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Join neighbouring texts and drop empty ones."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        elif part != "":
            merged.append(part)
    return tuple(merged)


def _split(content: Content) -> tuple[Part, ...]:
    return (content,) if isinstance(content, str) else content
