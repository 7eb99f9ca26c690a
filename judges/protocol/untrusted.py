"""Stand-ins for untrusted texts in the output of a chat template.

A template is rendered with a random stand-in (a nonce) for each untrusted text, and the texts are put back afterwards,
when the control tokens of the template are known. Templates write some texts as they are and others as JSON or as
Python literals, such as the arguments of a tool call. Each stand-in therefore ends with a zero-width space and a
quotation mark: JSON puts a backslash before the mark, and a Python literal escapes the space, which shows how the text
has to be written.
"""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.judges.conversations.openai import TOOL_ROLES
from flex_judge.judges.errors import RenderError
from flex_judge.judges.media.types import Media

# fmt: off
SCHEMA_WORDS = frozenset((
    "$defs", "$ref", "additionalProperties", "allOf", "anyOf", "array", "boolean", "const", "default",
    "description", "enum", "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "function", "integer",
    "items", "maxItems", "maxLength", "maximum", "minItems", "minLength", "minimum", "name", "null", "nullable",
    "number", "object", "oneOf", "parameters", "pattern", "properties", "required", "return", "returns",
    "strict", "string", "title", "type", "uniqueItems",
))
# fmt: on
"""Words of tool definitions (JSON Schema) that templates look for. They are no control tokens of any model."""
_SPACE, _ESCAPED_SPACE = "\u200b", "\\u200b"
_END = f'{_SPACE}"'
_JSON_DEPTHS = {0: 0, 1: 1, 3: 2, 7: 3}
"""Number of backslashes before a quotation mark -> number of times that a text was written as JSON."""


class UntrustedTexts:
    """Untrusted texts of one chat, with their stand-ins."""

    def __init__(self) -> None:
        self._key = secrets.token_hex(16)
        self._pattern = re.compile(rf'{self._key}([0-9]{{6}})({_SPACE}|{re.escape(_ESCAPED_SPACE)})(\\*)"')
        self._texts: list[str] = []

    def add(self, text: str) -> str:
        """Add a text and return its stand-in."""
        self._texts.append(text)
        return f"{self._key}{len(self._texts) - 1:06d}{_END}"

    def add_json(self, value: Any, known: frozenset[str] = frozenset()) -> tuple[Any, dict[str, str]]:
        """Add the texts of a JSON value: names of fields and strings at all levels.

        Equal texts have the same stand-in, and the stand-ins sort as their texts do, because templates compare and
        sort them.

        Args:
            value: the value.
            known: texts that stay as they are.

        Returns:
            The value with stand-ins, and the stand-in of each text.
        """
        texts = sorted(set(_list_texts(value)) - known - {""})
        stand_ins = {text: self.add(text) for text in texts}
        return _replace_texts(value, stand_ins), stand_ins

    def count(self, output: str) -> Counter[str]:
        """Count the stand-ins in the output of a template.

        Raises:
            RenderError: the template changed a stand-in.
        """
        counts = Counter(f"{self._key}{match[1]}{_END}" for match in self._pattern.finditer(output))
        if counts.total() != output.count(self._key):
            raise RenderError("the chat template cuts or changes a text of the chat")
        return counts

    def restore(self, output: str) -> str:
        """Replace the stand-ins in the output of a template by their texts, escaped where the template wrote JSON.

        Raises:
            RenderError: the template changed a stand-in.
        """
        return self._pattern.sub(self._restore_match, output)

    def _restore_match(self, match: re.Match[str]) -> str:
        text, space, backslashes = self._texts[int(match[1])], match[2], len(match[3])
        if space == _ESCAPED_SPACE and backslashes == 0:
            return repr(f'"{text}')[2:-1]  # with a quotation mark, so that Python's literal has single quotes
        if space == _ESCAPED_SPACE and backslashes == 1:
            return json.dumps(text)[1:-1]
        if space == _ESCAPED_SPACE or backslashes not in _JSON_DEPTHS:
            raise RenderError("the chat template cuts or changes a text of the chat")
        for _ in range(_JSON_DEPTHS[backslashes]):
            text = json.dumps(text, ensure_ascii=False)[1:-1]
        return text


class TemplateChat:
    """A chat as a template takes it, with stand-ins for its untrusted texts and placeholders for its media."""

    def __init__(self) -> None:
        self.texts = UntrustedTexts()
        self.messages: list[dict[str, Any]] = []
        self.tools: list[Any] | None = None
        self.media: list[Media] = []
        """Media of the placeholders so far."""
        self._contents: list[str] = []
        self._ids: dict[str, str] = {}
        self._required: dict[str, str] = {}
        """Stand-in of a text that has to be written -> what is lost without it."""
        self._optional: dict[str, str] = {}
        """Stand-in of a text that may be left out -> name of its field."""

    def add_content(self, text: str) -> str:
        """Add an untrusted text of a message's content."""
        stand_in, result = self._add_inner_text(text)
        if stand_in:
            self._contents.append(stand_in)
        return result

    def add_fields(self, role: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Add the fields of a message beside role and content, see `ToolTurn`."""
        added: dict[str, Any] = {}
        for name, value in fields.items():
            if name == "tool_calls":
                added[name] = [self._add_call(call) for call in value]
            elif name == "tool_call_id":
                added[name] = self._add_id(value)
            else:
                stand_in, added[name] = self._add_inner_text(value)
                if stand_in and role not in TOOL_ROLES:  # templates match results to calls by their order
                    self._optional[stand_in] = name
        return added

    def add_tools(self, tools: Sequence[Mapping[str, Any]], known: frozenset[str]) -> None:
        """Add definitions of tools.

        Args:
            tools: the definitions.
            known: texts of definitions that templates look for, which stay as they are.
        """
        if not tools:
            return
        self.tools, stand_ins = self.texts.add_json(list(tools), known)
        for tool in tools:
            function = tool.get("function")
            name = function.get("name") if isinstance(function, Mapping) else tool.get("name")
            if isinstance(name, str) and name in stand_ins:
                self._required[stand_ins[name]] = "tool definitions"

    def check_output(self, output: str) -> frozenset[str]:
        """Check that the output of the template has every text.

        Returns:
            Names of the fields that the template left out, of those that it may leave out.

        Raises:
            RenderError: a text of a message does not occur exactly once, or a tool or a call is missing.
        """
        counts = self.texts.count(output)
        for stand_in in self._contents:
            if counts[stand_in] != 1:
                raise RenderError(f"the chat template writes a message {counts[stand_in]} times instead of once")
        for stand_in, name in self._required.items():
            if not counts[stand_in]:
                raise RenderError(f"the chat template leaves out {name}")
        return frozenset(name for stand_in, name in self._optional.items() if not counts[stand_in])

    def _add_inner_text(self, text: str) -> tuple[str, str]:
        """Add a text and return its stand-in, and the stand-in between the white space at the ends of the text.

        The template can trim white space outside the stand-in as it would for any text.
        """
        core = text.strip()
        if not core:
            return "", text
        stand_in = self.texts.add(core)
        lead, trail = text.split(core, 1)
        return stand_in, lead + stand_in + trail

    def _add_call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        (name, arguments), stand_ins = self.texts.add_json([function["name"], function["arguments"]])
        self._required |= dict.fromkeys(stand_ins.values(), "tool calls")
        added = {"type": "function", "function": {"name": name, "arguments": arguments}}
        return {**added, "id": self._add_id(call["id"])} if "id" in call else added

    def _add_id(self, call_id: str) -> str:
        """Add the id of a call; templates compare the ids of calls and results."""
        if call_id not in self._ids:
            self._ids[call_id] = self.texts.add(call_id)
        return self._ids[call_id]


def _list_texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for name, item in value.items() for text in (str(name), *_list_texts(item))]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _list_texts(item)]
    return []


def _replace_texts(value: Any, stand_ins: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return stand_ins.get(value, value)
    if isinstance(value, Mapping):
        return {stand_ins.get(str(n), str(n)): _replace_texts(item, stand_ins) for n, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_texts(item, stand_ins) for item in value]
    return value
