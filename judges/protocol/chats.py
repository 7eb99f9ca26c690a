"""Render conversations with a model's own chat template, with tools, tool calls and their results.

A template that cannot write tools, or rejects the role `tool`, gets them as text: definitions in the system message,
each call as a line of JSON at the end of its message, and results as user messages if need be. Nothing is lost then,
but the model was not trained on this form; a note of the prompt and one warning say so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flex_judge.judges.conversations.messages import (
    Content,
    Message,
    Part,
    content_to_text,
    merge_texts,
    split_content,
)
from flex_judge.judges.conversations.openai import TOOL_ROLES, message_to_template, parse_arguments, split_tools
from flex_judge.judges.errors import RenderError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer, ToolTurn
from flex_judge.judges.protocol.turns import Span, Turn

logger = logging.getLogger(__name__)
_warned: set[tuple[str, str]] = set()


def render_conversation(
    renderer: Renderer, messages: Sequence[Message], limits: MediaLimits | None = None
) -> RenderedPrompt:
    """Render a conversation up to the start of the assistant's reply. Decodes media, which can take seconds.

    Args:
        renderer: the renderer of the model.
        messages: the conversation. All its text is untrusted.
        limits: media limits that override those of the model family.

    Raises:
        RenderError: the chat template cannot write the conversation, with or without tools as text.
        MediaError: a medium cannot be read, or the model does not support its modality.
    """
    plain, definitions = split_tools(messages)
    turns = [_make_turn(message) for message in plain]
    try:
        rendered = renderer.render(turns, limits=limits, tools=definitions)
    except RenderError as e:
        if not definitions and not any(m.tool_calls or m.role in TOOL_ROLES for m in plain):
            raise
        try:  # a few templates take the arguments of calls as JSON text
            turns = [_make_turn(message, arguments_as_text=True) for message in plain]
            rendered = renderer.render(turns, limits=limits, tools=definitions)
        except RenderError:
            rendered = _render_as_text(renderer, messages, limits, e)
    for name in sorted(rendered.unwritten):
        rendered = _add_note(renderer, rendered, f"the chat template leaves out the field {name!r} of some messages")
    return rendered


def find_template_problem(renderer: Renderer, messages: Sequence[Message]) -> str:
    """Return why the chat template cannot write a conversation with its tools; empty if it can."""
    plain, definitions = split_tools(messages)
    texts = [replace(message, content=content_to_text(message.content)) for message in plain]
    try:
        renderer.render([_make_turn(message) for message in texts], tools=definitions)
    except RenderError as e:
        return str(e)
    return ""


def write_tools_as_text(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Write the tool definitions of a conversation into its system message, for models and trainers without tools."""
    plain, definitions = split_tools(messages)
    if not definitions:
        return plain
    text = "\n".join(
        [
            "You can call these tools:",
            *(json.dumps(definition, ensure_ascii=False) for definition in definitions),
            'To call a tool, write a line such as {"name": "NAME", "arguments": {}}.',
        ]
    )
    if plain and plain[0].role == "system":
        content = _join((plain[0].content, "\n\n", text) if plain[0].content else (text,))
        return (replace(plain[0], content=content), *plain[1:])
    return (Message("system", text), *plain)


def write_conversation_as_text(
    renderer: Renderer, prompt: Sequence[Message], *answers: Sequence[Message]
) -> tuple[tuple[Message, ...], ...]:
    """Write the tools of a prompt and of its answers as text, in the form that `render_conversation` falls back to."""
    parts = [write_calls_as_text(messages) for messages in (write_tools_as_text(prompt), *answers)]
    if find_template_problem(renderer, [message for part in parts for message in part]):
        parts = [tuple(merge_results(part)) for part in parts]
    return tuple(parts)


def write_calls_as_text(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Write the tool calls of each message as lines of JSON at its end, and `Result of NAME:` before each result."""
    written = []
    for message in messages:
        lines = [_write_call(call.name, call.arguments) for call in message.tool_calls]
        content = _join((message.content, "\n" if message.content and lines else "", "\n".join(lines)))
        message = replace(message, tool_calls=(), tool_call_id="")
        if message.role in TOOL_ROLES:
            content = _join((f"Result of {message.name or 'the call'}:\n", content))
            message = replace(message, name="")
        written.append(replace(message, content=content))
    return tuple(written)


def _render_as_text(
    renderer: Renderer, messages: Sequence[Message], limits: MediaLimits | None, error: RenderError
) -> RenderedPrompt:
    """Render a conversation with its tools as text: with the role `tool`, or else with results as user messages."""
    written = write_calls_as_text(write_tools_as_text(messages))
    try:
        rendered = renderer.render([_make_turn(message) for message in written], limits=limits)
    except RenderError:
        rendered = renderer.render([_make_turn(message) for message in merge_results(written)], limits=limits)
    problem = f"{error}; tools, their calls and results are written as text, which is not its own form"
    return _add_note(renderer, rendered, problem)


def merge_results(messages: Sequence[Message]) -> list[Message]:
    """Turn results into user messages, and join neighbours of one role: some templates need roles to alternate."""
    merged: list[Message] = []
    for message in messages:
        if message.role in TOOL_ROLES:
            message = Message("user", message.content)
        if merged and merged[-1].role == message.role:
            message = replace(message, content=_join((merged.pop().content, "\n\n", message.content)))
        merged.append(message)
    return merged


def _write_call(name: str, arguments: str) -> str:
    return json.dumps({"name": name, "arguments": parse_arguments(arguments)}, ensure_ascii=False)


def _make_turn(message: Message, arguments_as_text: bool = False) -> Turn:
    pieces = tuple(Span(part) if isinstance(part, str) else part for part in split_content(message.content))
    fields: dict[str, Any] = message_to_template(message, "")
    del fields["content"]
    if arguments_as_text:
        for call, original in zip(fields.get("tool_calls", ()), message.tool_calls, strict=True):
            call["function"]["arguments"] = original.arguments or "{}"
    # Templates know the newer role only.
    role = "tool" if fields.pop("role") == "function" else message.role
    return ToolTurn(role, pieces, fields) if fields else Turn(role, pieces)


def _join(contents: Sequence[Content]) -> Content:
    parts: list[Part] = [part for content in contents for part in split_content(content)]
    merged = merge_texts(parts)
    return "".join(map(str, merged)) if all(isinstance(part, str) for part in merged) else merged


def _add_note(renderer: Renderer, rendered: RenderedPrompt, problem: str) -> RenderedPrompt:
    """Note a problem of a prompt, and log the first one of its kind."""
    key = str(renderer.tokenizer.name_or_path), problem
    if key not in _warned:
        _warned.add(key)
        logger.warning("model %s: %s", *key)
    return replace(rendered, note="; ".join(filter(None, (rendered.note, problem))))
