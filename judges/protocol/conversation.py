"""Messages in the judge's prompt: each part stands under a heading that no text of a message can imitate.

A message is shown in the order reasoning, content, available tools, tool calls. See
`flex_judge.judges.protocol.headings` for the headings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flex_judge.judges.conversations.messages import ASSISTANT, Message
from flex_judge.judges.media.types import Media
from flex_judge.judges.protocol.headings import REASONING, ROLE_TITLES, TOOL_CALL, TOOLS, Heading, find_title
from flex_judge.judges.protocol.quoting import quote_headings
from flex_judge.judges.protocol.turns import Span, content_to_pieces
from flex_judge.judges.rubrics.rubric import Rubric


def render_messages(messages: Sequence[Message], rubric: Rubric) -> list[Span | Media]:
    """Render the messages of a prompt or of a trajectory, each part after an empty line and a heading.

    Headings are trusted, but the names and ids in them are not. Media stay in place. Lines that look like a heading are
    quoted, see `flex_judge.judges.protocol.quoting.quote_headings`.

    Args:
        messages: the messages; they are numbered from 1.
        rubric: defines the section headers, which are protected as well.
    """
    pieces: list[Span | Media] = []
    for number, message in enumerate(messages, start=1):
        for heading, body in _list_parts(message):
            spans, values = heading.build_spans(number)
            pieces += [Span("\n\n", trusted=True), *spans]
            lines = ([Span(values)] if values else []) + ([Span("\n")] if values and body else [])
            if lines or body:
                pieces += [Span("\n", trusted=True), *quote_headings([*lines, *body], rubric, in_conversation=True)]
    return pieces


def _list_parts(message: Message) -> Iterator[tuple[Heading, list[Span | Media]]]:
    """List the parts of a message with their headings; content without text and media is left out beside other parts."""
    if message.reasoning:
        yield Heading(REASONING), [Span(message.reasoning)]
    content = [piece for piece in content_to_pieces(message.content) if piece != Span("")]
    title = find_title(message.role)
    if _has_text_or_media(content) or not _is_role_implied(message, title) or message.name or message.tool_call_id:
        role = "" if title else message.role
        yield Heading(title, role=role, name=message.name, id=message.tool_call_id), content
    if message.tools:
        yield Heading(TOOLS), [Span("\n".join(message.tools))]
    for call in message.tool_calls:
        yield Heading(TOOL_CALL, name=call.name, id=call.id), [Span(call.arguments)] if call.arguments else []


def _has_text_or_media(content: Sequence[Span | Media]) -> bool:
    return any(isinstance(piece, Media) or piece.text.strip() for piece in content)


def _is_role_implied(message: Message, title: str) -> bool:
    """Return whether the headings of the other parts say who wrote the message."""
    if title == ROLE_TITLES[ASSISTANT]:
        return bool(message.reasoning or message.tool_calls)
    return title in (ROLE_TITLES["system"], ROLE_TITLES["developer"]) and bool(message.tools)
