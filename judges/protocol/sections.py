"""Sections of the judge's prompt: the question and the responses, each under a header that no text can imitate.

In a conversation, each part of a message has a heading too, in the order reasoning, content, available tools, tool
calls. See `flex_judge.judges.protocol.headings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

from flex_judge.judges.conversations.messages import (
    ASSISTANT,
    Content,
    Message,
    Part,
    Response,
    Trajectory,
    split_content,
)
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.protocol.headings import REASONING, ROLE_TITLES, TOOL_CALL, TOOLS, Heading, find_title
from flex_judge.judges.protocol.quoting import quote_headings
from flex_judge.judges.protocol.turns import Span
from flex_judge.judges.rubrics.rubric import Rubric


def content_to_pieces(content: Content) -> tuple[Span | Media, ...]:
    """Convert the content of a message to untrusted pieces of a turn."""
    return tuple(Span(part) if isinstance(part, str) else part for part in split_content(content))


def build_question_section(messages: Sequence[Message], rubric: Rubric, in_conversation: bool) -> list[Span | Media]:
    """Build the question with its header.

    Args:
        messages: the prompt.
        rubric: defines the headers.
        in_conversation: whether messages have headings. If not, the prompt is a single message; its media come before
            the header, unless one of them is between two texts.
    """
    if in_conversation:
        return [Span(rubric.question_header, trusted=True), *render_messages(messages, rubric)]
    parts = split_content(messages[0].content)
    moved: list[Media] = []
    if not _has_medium_between_texts(parts):
        moved = [part for part in parts if _is_movable(part)]
        parts = tuple(part for part in parts if not _is_movable(part))
    header = Span(f"{rubric.question_header}\n", trusted=True)
    return [*moved, header, *quote_headings(content_to_pieces(parts), rubric)]


def build_response_section(
    response: Response, header: str, rubric: Rubric, in_conversation: bool
) -> list[Span | Media]:
    """Build a response with its header, after an empty line.

    Args:
        response: the response.
        header: its header.
        rubric: defines the headers that are protected.
        in_conversation: whether message headings are protected too.
    """
    if isinstance(response, Trajectory):
        return [Span(f"\n\n{header}", trusted=True), *render_messages(response.messages, rubric)]
    content = quote_headings(content_to_pieces(response), rubric, in_conversation)
    return [Span(f"\n\n{header}\n", trusted=True), *content]


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
    """List the parts of a message with their headings; content without text and media is left out next to others."""
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


def _has_medium_between_texts(parts: Sequence[Part]) -> bool:
    """Return whether a text continues after an image, video or sound: "First <image> then <image>: the same?"."""
    texts = [i for i, part in enumerate(parts) if isinstance(part, str) and part.strip()]
    return any(_is_movable(part) for part in parts[texts[0] : texts[-1]]) if texts else False


def _is_movable(part: Part) -> TypeGuard[Media]:
    """Return whether a part of the prompt comes before the question; most judges read molecules as text."""
    return isinstance(part, Media) and part.modality != Modality.MOLECULE
