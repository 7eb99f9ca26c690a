"""Read prompts and responses in every form that users have.

All entrances use this reader: files, HTTP, Python, the adapters of trainers, and data runs. They differ in how a medium
is opened (`OpenMedia`) and in what happens with unknown fields, and in nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flex_judge.judges.conversations.guards import convert_foreign_errors, read_text
from flex_judge.judges.conversations.messages import (
    ASSISTANT,
    Content,
    Message,
    Part,
    Response,
    ToolCall,
    Trajectory,
    View,
    add_tools,
    select_view,
)
from flex_judge.judges.conversations.parts import (
    REASONING_PARTS,
    Pending,
    find_source,
    list_unknown_text_fields,
    place_media,
    read_options,
    read_text_part,
    unwrap_source,
)
from flex_judge.judges.conversations.tools import read_definitions, read_tool_calls
from flex_judge.judges.conversations.values import describe_value, is_empty, is_no_medium, to_mapping, to_plain_value
from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.types import Media, Modality, OpenMedia

MESSAGE_FIELDS = (
    "role",
    "content",
    "name",
    "tool_calls",
    "function_call",
    "tool_call_id",
    "reasoning_content",
    "reasoning",
    "thinking",
    "refusal",
    "tools",
)
"""Fields of a message that the judge is shown."""
IGNORED_FIELDS = ("id", "object", "index", "created", "created_at", "timestamp", "finish_reason", "type", "status")
"""Fields of a message that describe its record and not its content."""
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
ROLES_WITHOUT_CONTENT = (ASSISTANT, "tool", "function")
"""Roles whose content may be null."""
MAX_ROLE_LENGTH = 64
logger = logging.getLogger(__name__)
_warned: set[str] = set()


class ConversationReader:
    """Reader of prompts and responses.

    Example:
        >>> ConversationReader(open_local_media).read_response([{"role": "assistant", "content": "5"}])
        '5'
    """

    def __init__(self, open_media: OpenMedia, strict: bool = False) -> None:
        """Configure a reader.

        Args:
            open_media: opens each medium, in the order of the row.
            strict: whether an unknown field is an error. If not, it is ignored, and the first one of a name logs a
                warning.
        """
        self._open_media = open_media
        self._strict = strict

    def read_prompt(
        self,
        prompt: Any,
        media: Mapping[Modality, Mapping[str, Any]] | None = None,
        tools: Any = None,
        field: str = "prompt",
        tools_field: str = "tools",
    ) -> tuple[Message, ...]:
        """Read a prompt with the media and tools of its row.

        Media of the row go to the parts without a source of their own, such as `{"type": "image"}`; then to marks such
        as `<image>` in the text, if there are as many marks as media; else before the user's last message. A medium
        that is in the prompt already, as trainers pass it in both places, is not repeated.

        Args:
            prompt: text or messages.
            media: sources of the row's media by modality, each under its name in error messages; null entries are
                skipped.
            tools: definitions of the tools that the model could call.
            field: name of the prompt in error messages.
            tools_field: name of the tools in error messages.

        Raises:
            UsageError: the prompt has an unknown form; the error has a `field`.
            MediaError: a medium cannot be read; the error has a `field`.
        """
        with convert_foreign_errors(field):
            opened: dict[Modality, list[Media]] = {}
            for modality, sources in (media or {}).items():
                opened[modality] = [
                    self._open(modality, unwrap_source(source), name)
                    for name, source in sources.items()
                    if not is_no_medium(source)
                ]
            plain = to_plain_value(prompt)
            if isinstance(plain, str):
                messages = [_PromptMessage(Message("user"), [plain])]
            else:
                messages = [self._read_message(m, f"{field}[{i}]") for i, m in enumerate(_list_messages(plain, field))]
            users = [i for i, m in enumerate(messages) if m.message.role == "user"]
            placed = place_media([m.parts for m in messages], opened, users[-1] if users else len(messages) - 1, field)
            result = [replace(m.message, content=_join_parts(p)) for m, p in zip(messages, placed, strict=True)]
            return add_tools(result, read_definitions(tools, tools_field))

    def read_response(self, response: Any, view: View = "full", field: str = "response") -> Response:
        """Read a response: text, a medium, parts, a message or a list of messages.

        One assistant message without tool calls and reasoning is its content; other messages are a trajectory.

        Args:
            response: the response.
            view: `final` keeps only the final answer of a trajectory.
            field: name of the response in error messages.

        Raises:
            UsageError: the response has an unknown form; the error has a `field`.
            MediaError: a medium cannot be read; the error has a `field`.
        """
        with convert_foreign_errors(field):
            plain = to_plain_value(response)
            if isinstance(plain, Trajectory):
                return select_view(plain, view)
            items = [_find_message(item) for item in (plain if isinstance(plain, list) else [plain])]
            if not items or any(item is None for item in items):
                return self._read_content(plain, field)
            messages = [self._finish_message(self._read_message(m, f"{field}[{i}]")) for i, m in enumerate(items)]
            if len(messages) == 1 and messages[0].is_plain and messages[0].role == ASSISTANT:
                return messages[0].content
            return select_view(Trajectory(tuple(messages)), view)

    def _finish_message(self, read: _PromptMessage) -> Message:
        return replace(read.message, content=_finish_parts(read.parts))

    def _read_message(self, value: Any, field: str) -> _PromptMessage:
        if isinstance(value, Message):
            return _PromptMessage(value, [value.content] if isinstance(value.content, str) else list(value.content))
        row = to_mapping(value)
        if row is None or "role" not in row:
            raise UsageError.at_field(
                field, f"expected a message with 'role' and 'content', got {describe_value(value)}"
            )
        role = to_plain_value(row["role"])
        if not isinstance(role, str) or not role.strip() or not role.isprintable() or len(role) > MAX_ROLE_LENGTH:
            raise UsageError.at_field(f"{field}.role", f"expected a role such as 'user', got {describe_value(role)}")
        for name, item in row.items():
            if name not in (*MESSAGE_FIELDS, *IGNORED_FIELDS) and not is_empty(item):
                self._report_unknown(name, field)
        calls = tuple(ToolCall(*call) for call in read_tool_calls(row, field, self._report_unknown))
        parts, reasoning = self._split_reasoning(row, field)
        content = to_plain_value(row.get("content"))
        if content is not None:
            parts += self._read_parts(content, f"{field}.content", reasoning)
        elif not (calls or parts or reasoning) and (role not in ROLES_WITHOUT_CONTENT or "content" not in row):
            problem = "is null" if "content" in row else "is missing"
            raise UsageError.at_field(f"{field}.content", f"{problem}; expected text or a list of parts")
        message = Message(
            role,
            name=read_text(row.get("name"), f"{field}.name"),
            tool_calls=calls,
            tool_call_id=read_text(row.get("tool_call_id"), f"{field}.tool_call_id"),
            reasoning="\n\n".join(reasoning),
            tools=read_definitions(row.get("tools"), f"{field}.tools"),
        )
        return _PromptMessage(message, parts)

    def _split_reasoning(self, row: Mapping[str, Any], field: str) -> tuple[list[Part | Pending], list[str]]:
        """Read the refusal and the reasoning next to the content of a message."""
        refusal = read_text(row.get("refusal"), f"{field}.refusal")
        reasoning: list[str] = []
        for name in REASONING_FIELDS:
            text = read_text(row.get(name), f"{field}.{name}")
            if text and text not in reasoning:  # some servers send the same text under two names
                reasoning.append(text)
        return ([refusal] if refusal else []), reasoning

    def _read_content(self, value: Any, field: str) -> Content:
        return _finish_parts(self._read_parts(value, field, None))

    def _read_parts(self, value: Any, field: str, reasoning: list[str] | None) -> list[Part | Pending]:
        """Read content; texts of reasoning parts are appended to `reasoning`, if that is a list."""
        value = to_plain_value(value)
        if isinstance(value, str | Media):
            return [value]
        if isinstance(value, Mapping):
            return self._read_part(value, field, reasoning)
        if not isinstance(value, list):
            raise UsageError.at_field(field, f"expected text or a list of parts, got {describe_value(value)}")
        parts: list[Part | Pending] = []
        for i, part in enumerate(value):
            parts += self._read_part(part, f"{field}[{i}]", reasoning)
        return parts

    def _read_part(self, value: Any, field: str, reasoning: list[str] | None) -> list[Part | Pending]:
        value = to_plain_value(value)
        if isinstance(value, str | Media):
            return [value]
        row = to_mapping(value)
        if row is None:
            raise UsageError.at_field(
                field, f"expected a part such as {{'type': 'text', ...}}, got {describe_value(value)}"
            )
        text = read_text_part(row, field)
        if text is not None:
            for name in list_unknown_text_fields(row):
                self._report_unknown(name, field)
            if row.get("type") in REASONING_PARTS and reasoning is not None:
                reasoning.append(text)
                return []
            return [text]
        source = find_source(row, field)
        for name in source.unknown_fields:
            self._report_unknown(name, field)
        if source.value is None:
            return [Pending(source.modality, field)]
        return [self._open(source.modality, source.value, source.field, **read_options(row))]

    def _open(self, modality: Modality, source: Any, field: str, **options: Any) -> Media:
        try:
            return self._open_media(modality, source, field, **options).with_origin(field)
        except MediaError as e:
            raise MediaError.at_field(field, e) from e

    def _report_unknown(self, name: str, field: str) -> None:
        """Raise an error or log a warning about a field that the judge is not shown."""
        if self._strict:
            raise UsageError.at_field(f"{field}.{name:.60}", "unknown field; remove it")
        if name not in _warned:
            _warned.add(name)
            logger.warning("%s.%s: unknown field; it is ignored, here and in further messages", field, name)


@dataclass
class _PromptMessage:
    """A message whose media may still be missing."""

    message: Message
    parts: list[Part | Pending]


def _list_messages(value: Any, field: str) -> Iterator[Any]:
    if not isinstance(value, list):
        message = _find_message(value)
        value = value if message is None else [message]
    if not isinstance(value, list):
        raise UsageError.at_field(field, f"expected text or a list of messages, got {describe_value(value)}")
    if not value:
        raise UsageError.at_field(field, "expected text or a list of messages, got an empty list")
    return iter(value)


def _find_message(value: Any) -> Message | Mapping[str, Any] | None:
    """Return a message as it is, or the fields of one; None for other values."""
    if isinstance(value, Message):
        return value
    row = None if isinstance(value, str | Media) else to_mapping(value)
    return row if row is not None and "role" in row else None


def _finish_parts(parts: Sequence[Part | Pending]) -> Content:
    """Join the parts of a response, which has no media columns."""
    for part in parts:
        if isinstance(part, Pending):
            raise part.make_error(has_column=False)
    return _join_parts(parts)


def _join_parts(parts: Sequence[Part | Pending]) -> Content:
    """Join the parts to one string if all of them are text."""
    ready = [part for part in parts if not isinstance(part, Pending)]
    if all(isinstance(part, str) for part in ready):
        return "".join(str(part) for part in ready)
    return tuple(ready)
