"""Tool calls and tool definitions, in the forms of APIs, chat templates and data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flex_judge.judges.conversations.values import describe_value, is_empty, to_json_text, to_mapping, to_plain_value
from flex_judge.judges.errors import UsageError

ARGUMENT_FIELDS = ("arguments", "input", "args", "parameters")
FUNCTION_FIELDS = ("function", "custom")
"""Fields of a call that hold its name and arguments."""
KNOWN_FIELDS = ("name", "id", "call_id", "type", "index", "status", *ARGUMENT_FIELDS, *FUNCTION_FIELDS)
"""Fields of a call that the judge is shown, or that describe its record."""
ReportUnknown = Callable[[str, str], None]
"""Function that reports an unknown field: (name, field that holds it)."""


def read_tool_calls(row: Mapping[str, Any], field: str, report: ReportUnknown) -> list[tuple[str, str, str]]:
    """Read the tool calls of a message, from `tool_calls` and the older `function_call`.

    Args:
        row: the message.
        field: name of the message in error messages.
        report: called for each field of a call that is not read.

    Returns:
        Name, arguments as text, and id of each call.

    Raises:
        UsageError: a call has no name, or the calls have an unknown form.
    """
    calls: list[tuple[str, str, str]] = []
    for name in ("tool_calls", "function_call"):
        value = row.get(name)
        if not is_empty(value):
            read = [_read_call(call, f"{field}.{name}{place}", report) for place, call in _list_calls(value)]
            # Some servers send the same call in the newer and in the older form, which has no id.
            seen = {call[:2] for call in calls}
            calls += [call for call in read if call[2] or call[:2] not in seen]
    return calls


def read_definitions(value: Any, field: str) -> tuple[str, ...]:
    """Read definitions of tools: a list of objects, one object, or JSON text of these; functions become their name.

    Raises:
        UsageError: the value has another form.
    """
    value = _parse_json(value)
    if is_empty(value) or value == "null":
        return ()
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise UsageError.at_field(field, f"expected a list of tool definitions, got {describe_value(value)}")
    definitions = []
    for i, tool in enumerate(value):
        tool = _parse_json(tool)
        if callable(tool):  # trainers take Python functions as tools
            definition = {"name": getattr(tool, "__name__", str(tool)), "description": (tool.__doc__ or "").strip()}
        elif isinstance(tool, str):
            definition = {"name": tool}
        else:
            row = to_mapping(tool)
            if row is None:
                raise UsageError.at_field(f"{field}[{i}]", f"expected a tool definition, got {describe_value(tool)}")
            definition = _drop_empty_fields(row)
        definitions.append(to_json_text(definition))
    return tuple(definitions)


def _list_calls(value: Any) -> list[tuple[str, Any]]:
    """List calls with their place in the field: a list of calls, a single call, or JSON text of these."""
    value = _parse_json(value)
    if isinstance(value, list | tuple):
        return [(f"[{i}]", call) for i, call in enumerate(value)]
    return [("", value)]


def _read_call(value: Any, field: str, report: ReportUnknown) -> tuple[str, str, str]:
    row = to_mapping(_parse_json(value))
    if row is None:
        raise UsageError.at_field(field, f"expected a tool call with a name and arguments, got {describe_value(value)}")
    inner = next((to_mapping(_parse_json(row[n])) for n in FUNCTION_FIELDS if not is_empty(row.get(n))), None)
    function = row if inner is None else inner
    for fields in (row,) if inner is None else (row, inner):
        for unknown in fields:
            if unknown not in KNOWN_FIELDS and not is_empty(fields[unknown]):
                report(unknown, field)
    name = to_plain_value(function.get("name"))
    if not isinstance(name, str):
        raise UsageError.at_field(f"{field}.name", f"expected the name of a tool, got {describe_value(name)}")
    arguments = next((function[n] for n in ARGUMENT_FIELDS if function.get(n) is not None), "")
    call_id = next((to_plain_value(row[n]) for n in ("id", "call_id") if not is_empty(row.get(n))), "")
    # Arrow stores the arguments of all calls in one struct, and fills the fields of other tools with null.
    plain = to_mapping(arguments)
    return name, to_json_text(arguments if plain is None else _drop_empty_fields(plain)), str(call_id)


def _drop_empty_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Drop fields that are null, at all levels: tables add them."""

    def clean(value: Any) -> Any:
        value = value if isinstance(value, float) else to_plain_value(value)  # NaN in arguments is a value
        if isinstance(value, Mapping):
            return {name: clean(v) for name, v in value.items() if v is not None}
        return [clean(v) for v in value] if isinstance(value, list) else value

    cleaned: dict[str, Any] = clean(row)
    return cleaned


def _parse_json(value: Any) -> Any:
    """Parse JSON text of an object or a list; other values are unchanged."""
    value = to_plain_value(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value
