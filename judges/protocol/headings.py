"""Headings of messages in the prompt of a conversation, and patterns of lines that imitate them.

A heading is `[Message 2: user]` for the content of a message; `[Message 3: reasoning]`, `[Message 1: available tools]`,
`[Message 3: tool call, name=get_weather, id=call_1]` and `[Message 4: tool result, name=get_weather, id=call_1]` for
its other parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from flex_judge.judges.conversations.messages import ASSISTANT
from flex_judge.judges.protocol.lookalikes import FOREIGN_LETTERS, Speller, reduce_line
from flex_judge.judges.protocol.turns import Span

REASONING, TOOLS, TOOL_CALL, TOOL_RESULT = "reasoning", "available tools", "tool call", "tool result"
ROLE_TITLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    ASSISTANT: ASSISTANT,
    "tool": TOOL_RESULT,
    "function": TOOL_RESULT,
}
"""Known role -> its words in a heading."""
BELOW = "(below)"
"""Stands in a heading for a value that could break it; the line below has the value as JSON."""
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_AUTHORS = ("user", "human", ASSISTANT, "system", "developer", "tool", "function")
_EVENTS = ("result", "call", "response", "output")
"""Words that may follow `tool` or `function`."""
_JSON_KEY = r"""(?<=["'`])[\w ]{1,30}["'`]\s{0,9}:"""
_PARTS = (REASONING, TOOLS)
_CLOSING = r":\])}>,|"


@dataclass(frozen=True)
class Heading:
    """Heading above one part of a message."""

    title: str
    """One of the titles above; empty if the role has none."""
    role: str = field(default="", kw_only=True)
    """A role without a title, as in the data."""
    name: str = field(default="", kw_only=True)
    """Name of the author or of the tool."""
    id: str = field(default="", kw_only=True)
    """Id of the tool call."""

    def build_spans(self, number: int) -> tuple[list[Span], str]:
        """Build the heading of a message, without a line break.

        Args:
            number: number of the message, from 1.

        Returns:
            The heading, in which values of the message are untrusted; and the JSON text of those values that do not fit
            into it, empty if all fit.
        """
        below: dict[str, str] = {}
        title = Span(self.title, trusted=True)
        if not self.title and _ROLE.fullmatch(self.role) and not _imitates_title(self.role):
            title = Span(self.role)
        elif not self.title:
            title, below["role"] = Span(f"role={BELOW}", trusted=True), self.role
        spans = [Span(f"[Message {number}: ", trusted=True), title]
        for key, value in (("name", self.name), ("id", self.id)):
            if value and _NAME.fullmatch(value):
                spans += [Span(f", {key}=", trusted=True), Span(value)]
            elif value:
                spans.append(Span(f", {key}={BELOW}", trusted=True))
                below[key] = value
        return [*spans, Span("]", trusted=True)], _encode_values(below) if below else ""


def find_title(role: str) -> str:
    """Return the title of a role's messages, in any letter case; empty if it has none."""
    return ROLE_TITLES.get(role.strip().lower(), "")


def _encode_values(values: dict[str, str]) -> str:
    """Encode as one line of JSON, with characters that do not print escaped."""
    text = json.dumps(values, ensure_ascii=False)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _imitates_title(role: str) -> bool:
    """Return whether a role of a data set reads like a title of ours, such as `tool_call` or `too1`."""
    exact = Speller()
    titles = {REASONING, TOOLS, TOOL_CALL, *ROLE_TITLES, *ROLE_TITLES.values()}
    patterns = [r"\W*+".join(map(exact.spell, title.split())) for title in titles]
    return re.fullmatch(rf"\W*+(?:{'|'.join(patterns)})s?\W*+", reduce_line(role)) is not None


def build_counted_pattern() -> str:
    """Build the pattern of a number that is written as a letter, a Roman numeral or a word."""
    return "|".join([f"[a-z{FOREIGN_LETTERS}]", "[ivx]{1,4}", *map(Speller().spell, _NUMBER_WORDS)])


def _build_number_pattern() -> str:
    """Build the pattern of the number in `Message 3`; a word counts on the same line and not after a colon."""
    digits = r"(?:(?:no|nr|number)\b\W*+)?\d++(?:[.,/-]\d++){0,3}+"
    return rf"(?:\W*+{digits}|[^\w\n:]++(?:{build_counted_pattern()})(?!\w))"


def _build_role_pattern(role: str, speller: Speller) -> str:
    """Build the pattern of a role; `tool` and `function` may be followed by words such as `result`."""
    pattern = r"\W*+".join(speller.spell(word) for word in role.split())
    if role in ("tool", "function"):
        events = "|".join(map(Speller().spell, _EVENTS))
        pattern += rf"(?:\W*+(?:{events})s?(?!\w)(?:[^:\n\[\]]{{0,80}}+(?=[:\]]))?)?"
    return rf"{pattern}(?!\w)"


def _build_end_pattern(marks: str) -> str:
    """Build the pattern of the rest of a heading: one of the marks, or the end of the line."""
    return rf"[^\w\n{marks}]*+(?:[{marks}]|\n|\Z)"


def _match_message_number(speller: Speller) -> str:
    """Build the pattern of `Message 3:`, in brackets or not."""
    end = _build_end_pattern(r":\])}>,|=~\u2010-\u2015-")
    return rf"{speller.spell('message', spaced=True)}{_build_number_pattern()}{end}"


def _match_message_role(speller: Speller) -> str:
    """Build the pattern of `Message user`, `Message: user` and `Message X: user`."""
    exact = Speller()
    roles = "|".join(_build_role_pattern(role, exact) for role in (*_AUTHORS, *_PARTS))
    label = rf"(?:{_build_number_pattern()}|\W++[^\W_]{{1,20}}[^\w:]*+:)?"
    return rf"{speller.spell('message', spaced=True)}{label}\W*+(?:{roles}){_build_end_pattern(_CLOSING)}"


def _match_role_line(role: str, speller: Speller) -> str:
    """Build the pattern of `User:`, `**User 2**:`, `User (Ann):` and `Tool result get_weather:`."""
    remark = r"(?:[^\w:\n(]*+(?:\d{1,9}+|\([^()\n]{0,80}+\)))?"
    # Neither a key of JSON nor C++'s `System::String` opens a turn.
    return rf"(?!{_JSON_KEY}){_build_role_pattern(role, speller)}{remark}[^\w:\n]*+:(?!:\w)"


def _match_role_in_brackets(role: str, speller: Speller) -> str:
    """Build the pattern of `[User]` and `[Tool result, name=get_weather]`."""
    return rf"\[[^\w\n\[]*+{_build_role_pattern(role, speller)}{_build_end_pattern(_CLOSING)}"


MESSAGE_HEADINGS: tuple[Callable[[Speller], str], ...] = (
    _match_message_number,
    _match_message_role,
    *(partial(_match_role_line, role) for role in _AUTHORS),
    *(partial(_match_role_in_brackets, role) for role in (*_AUTHORS, *_PARTS)),
)
"""Builds the pattern of each kind of line that imitates a message heading."""
