"""Write messages, responses and tools in OpenAI's format, and in the format of chat templates."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flex_judge.judges.conversations.messages import ASSISTANT, Content, Message, Response, ToolCall, Trajectory
from flex_judge.judges.media.types import Media
from flex_judge.judges.validation.json_structure import is_deeper, make_unique_object

Json = dict[str, Any]
EncodeMedium = Callable[[Media], Json]
"""Function that makes the part of a message for a medium."""
EncodeDefinition = Callable[[str], Any]
"""Function that makes the value for the JSON text of a tool definition."""
MAX_DEPTH = 64
"""Maximum depth of arguments and definitions; deeper ones stay text, because the code of templates is recursive."""
TOOL_ROLES = ("tool", "function")
"""Roles of the results of tool calls; `function` is the older one."""


def message_to_openai(
    message: Message, encode_medium: EncodeMedium, encode_definition: EncodeDefinition | None = None
) -> Json:
    """Convert a message to OpenAI's format: arguments of calls are JSON text, and empty content next to calls is null.

    `ConversationReader` reads the same message from the result, if it can read the media. Tool definitions are in the
    field `tools`, which is an extension; see `split_tools`.

    Args:
        message: the message.
        encode_medium: makes the part for a medium.
        encode_definition: makes the value for a tool definition; None uses `definition_to_openai`.

    Example:
        >>> message_to_openai(Message("assistant", tool_calls=(ToolCall("now"),)), encode_medium)["tool_calls"]
        [{'type': 'function', 'function': {'name': 'now', 'arguments': ''}}]
    """
    content = content_to_openai(message.content, encode_medium)
    encode_definition = encode_definition or definition_to_openai
    return {
        "role": message.role,
        "content": None if message.tool_calls and message.content in ("", ()) else content,
        **_make_fields(message, lambda text: text),
        **({"tools": [encode_definition(tool) for tool in message.tools]} if message.tools else {}),
    }


def message_to_template(message: Message, content: Any) -> Json:
    """Convert a message to the format of chat templates and of TRL: arguments of calls are objects.

    Tool definitions are not part of the message: templates take them separately.

    Args:
        message: the message.
        content: its content, in the form that the template takes.
    """
    return {"role": message.role, "content": content, **_make_fields(message, parse_arguments)}


def response_to_openai(
    response: Response, encode_medium: EncodeMedium, encode_definition: EncodeDefinition | None = None
) -> Any:
    """Convert a response to JSON: text is text, parts are a list of parts, and a trajectory is a list of messages."""
    if isinstance(response, Trajectory):
        return [message_to_openai(message, encode_medium, encode_definition) for message in response.messages]
    return content_to_openai(response, encode_medium)


def content_to_openai(content: Content, encode_medium: EncodeMedium) -> str | list[Json]:
    """Convert content to text or to a list of parts."""
    if isinstance(content, str):
        return content
    return [{"type": "text", "text": p} if isinstance(p, str) else encode_medium(p) for p in content]


def describe_medium(medium: Media) -> Json:
    """Make a part that names a medium by its modality and digest, for logs and results."""
    return {"type": str(medium.modality), "digest": medium.digest}


def split_tools(messages: Sequence[Message]) -> tuple[tuple[Message, ...], tuple[Json, ...]]:
    """Separate the tool definitions of a conversation, as chat templates and endpoints take them.

    A system message that has nothing but definitions is left out, so that a template can write its own.

    Returns:
        The messages without definitions, and the definitions.
    """
    definitions = tuple(definition_to_openai(tool) for message in messages for tool in message.tools)
    plain = [replace(m, tools=()) for m in messages if not (m.tools and m.role == "system" and m.content in ("", ()))]
    return tuple(plain), definitions


def definition_to_openai(definition: str) -> Json:
    """Convert the JSON text of a tool definition to OpenAI's format: `{"type": "function", "function": {...}}`.

    A definition with a type keeps its form. Text that is no JSON object becomes the name of a function.
    """
    value = _parse_object(definition)
    if value is None:
        value = {"name": definition}
    if "type" in value or isinstance(value.get("function"), Mapping):
        return value
    if "input_schema" in value and "parameters" not in value:  # Anthropic's name of the parameters
        value = {**value, "parameters": value["input_schema"]}
        del value["input_schema"]
    return {"type": "function", "function": value}


def parse_arguments(text: str) -> Any:
    """Parse the arguments of a call; text that is no JSON object is unchanged, and no text becomes no arguments."""
    value = _parse_object(text or "{}")
    return text if value is None else value


def fill_call_ids(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Give an id to calls without one, and to their results: endpoints match results to calls by id.

    A result without an id belongs to the first call before it that has no result yet, of its name if it has one.
    """
    filled: list[Message] = []
    pending: list[ToolCall] = []
    used = {call.id for message in messages for call in message.tool_calls}
    for message in messages:
        calls: list[ToolCall] = []
        for call in message.tool_calls:
            if not call.id:
                call = replace(call, id=next(f"call_{n}" for n in range(len(used) + 1) if f"call_{n}" not in used))
                used.add(call.id)
            calls.append(call)
        pending += calls
        call_id = message.tool_call_id
        if message.role in TOOL_ROLES and pending:
            names = (call for call in pending if not call_id and message.name in ("", call.name))
            call_id = call_id or next(names, pending[0]).id
            pending = [call for call in pending if call.id != call_id]
        filled.append(replace(message, tool_calls=tuple(calls), tool_call_id=call_id))
    return tuple(filled)


def number_call_ids(trajectory: Trajectory) -> Trajectory:
    """Replace the ids of calls by `call_0`, `call_1`, ... in order.

    Endpoints draw ids at random, so that equal answers would differ, and a repeated run would write other results.
    """
    names: dict[str, str] = {}
    count = 0
    messages = []
    for message in trajectory.messages:
        calls = []
        for call in message.tool_calls:
            names[call.id] = f"call_{count}"
            count += 1
            calls.append(replace(call, id=names[call.id]))
        call_id = names.get(message.tool_call_id, message.tool_call_id) if message.tool_call_id else ""
        messages.append(replace(message, tool_calls=tuple(calls), tool_call_id=call_id))
    return Trajectory(tuple(messages))


def normalise_trajectory(trajectory: Trajectory) -> Trajectory:
    """Drop what makes no difference to a reader: ids of calls, layout of their arguments, white space around texts."""
    messages = []
    for message in trajectory.messages:
        content = message.content.strip() if isinstance(message.content, str) else message.content
        calls = tuple(ToolCall(call.name, normalise_arguments(call.arguments)) for call in message.tool_calls)
        messages.append(
            replace(message, content=content, tool_calls=calls, tool_call_id="", reasoning=message.reasoning.strip())
        )
    return Trajectory(tuple(messages))


def normalise_arguments(arguments: str) -> str:
    """Write arguments that are a JSON object in one layout, with sorted names; other text is unchanged."""
    value = parse_arguments(arguments)
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def response_to_messages(response: Response) -> tuple[Message, ...]:
    """Return the messages of a trajectory, or one assistant message with any other response."""
    return response.messages if isinstance(response, Trajectory) else (Message(ASSISTANT, response),)


def _make_fields(message: Message, convert_arguments: Callable[[str], Any]) -> Json:
    """Make the fields beside role and content that have a value."""
    calls = [
        {
            **({"id": call.id} if call.id else {}),
            "type": "function",
            "function": {"name": call.name, "arguments": convert_arguments(call.arguments)},
        }
        for call in message.tool_calls
    ]
    fields = {
        "reasoning_content": message.reasoning,
        "tool_calls": calls,
        "name": message.name,
        "tool_call_id": message.tool_call_id,
    }
    return {name: value for name, value in fields.items() if value}


def _parse_object(text: str) -> Json | None:
    """Parse a JSON object; None for other text, and for objects that would not be the same when written again."""
    try:
        value = json.loads(
            text, object_pairs_hook=make_unique_object, parse_float=_parse_finite, parse_constant=_parse_finite
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and not is_deeper(value, MAX_DEPTH) else None


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no JSON number")
    return number
