"""What is judged: plain, frozen, picklable, free of any model library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.opening import medium
from flex_judge.judges.media.types import Media, Modality

Part = str | Media
Content = str | tuple[Part, ...]
"""What a message or a response holds: text, or text and media in their order."""
MAX_SAMPLE_INDEX = (1 << 16) - 1
"""Judgments of one comparison that can be told apart, less one."""


@dataclass(frozen=True)
class Message:
    role: str
    """`system`, `user` or `assistant`."""
    content: Content
    """Treated as untrusted: control tokens written in its text stay ordinary text."""


@dataclass(frozen=True)
class Comparison:
    """One question and the candidate responses to be judged together: 1 is a single score, 2 a pair, more a batch."""

    id: str
    """Identity of the comparison within its run; judgments are matched by it, never by position."""
    prompt: tuple[Message, ...]
    """The conversation so far; its last message is the question."""
    responses: tuple[Content, ...]
    """Candidate answers, in the order in which they were given."""
    rubric: str = "general"
    """Name of the rubric, see `flex_judge.judges.rubrics`."""
    sample_index: int = 0
    """Which judgment of the same comparison this is: with another number the judge draws other votes, see
    `VoteLoop`."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample_index <= MAX_SAMPLE_INDEX:
            raise UsageError(f"draw must be from 0 to {MAX_SAMPLE_INDEX}, not {self.sample_index}")

    @classmethod
    def of(
        cls,
        prompt: str | Sequence[Any],
        *responses: Any,
        images: Sequence[Any] = (),
        rubric: str = "general",
        id: str = "",
        sample_index: int = 0,
    ) -> Comparison:
        """Build from strings or from lists of `{"role", "content"}` messages, as trainers and data sets hold them.

        Args:
            prompt: text or messages; the content of a message is text or a list of parts such as
                `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`,
                `{"type": "molecule", "smiles": ...}` or a `Media`.
            responses: the candidates, each text, a Media, a list of parts, or messages.
            images: images that belong to the prompt (paths, bytes, data URIs, PIL). Parts `{"type": "image"}` without
                an image of their own take the next of them; those left over stand before the question.
            rubric: name of a rubric, or the path of its file.
            id: identity of the comparison within its run.
            sample_index: which judgment of the same comparison this is.

        Raises:
            UsageError: a prompt or response of another shape, or a draw that is out of range.
            MediaError: a medium that cannot be read.
        """
        given = iter([medium(Modality.IMAGE, image) for image in images])
        messages = messages_of(prompt, given)
        spare = tuple(given)
        if spare:
            last = messages[-1]
            messages = (*messages[:-1], Message(last.role, (*spare, *parts_of(last.content))))
        return cls(id, messages, tuple(content_of(r) for r in responses), rubric, sample_index)

    def permuted(self, order: Sequence[int]) -> Comparison:
        """The same comparison with response `order[k]` at place k."""
        return replace(self, responses=tuple(self.responses[i] for i in order))

    def swapped(self) -> Comparison:
        """The same comparison with its responses in reverse order."""
        return self.permuted(range(len(self.responses))[::-1])

    @property
    def has_media(self) -> bool:
        contents = [*(m.content for m in self.prompt), *self.responses]
        return any(isinstance(part, Media) for content in contents for part in parts_of(content))

    @cached_property  # every vote asks for it, and a response may be long
    def digest(self) -> str:
        """SHA-256 of what is judged, in hex: prompt, media, responses, rubric and draw, not the id."""
        what: list[Any] = [self.rubric, self._plain_prompt(), [_plain(r) for r in self.responses]]
        if self.sample_index:  # the first one is called as it was before there were others
            what.append(self.sample_index)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @cached_property
    def prompt_digest(self) -> str:
        """SHA-256 of what a question's candidates share, in hex: rubric, prompt and its media."""
        return hashlib.sha256(json.dumps([self.rubric, self._plain_prompt()]).encode()).hexdigest()

    def _plain_prompt(self) -> list[list[Any]]:
        return [[m.role, _plain(m.content)] for m in self.prompt]


def _plain(content: Content) -> list[list[str]]:
    """Content as JSON holds it, media by their digests."""
    return [["text", p] if isinstance(p, str) else ["media", p.digest] for p in parts_of(content)]


def parts_of(content: Content) -> tuple[Part, ...]:
    """Content as parts; plain text is one part."""
    return (content,) if isinstance(content, str) else content


def text_of(content: Content) -> str:
    """The text of a content; each medium is its modality in brackets."""
    return "".join(p if isinstance(p, str) else f"[{p.modality}]" for p in parts_of(content))


def messages_of(prompt: str | Sequence[Any], images: Iterator[Media] | None = None) -> tuple[Message, ...]:
    """A prompt in any of the usual shapes, as messages: a string is one user message."""
    images = iter(()) if images is None else images
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, Sequence):
        raise UsageError(f"prompt: expected text or a list of messages, got {prompt!r:.80}")
    messages = []
    for m in prompt:
        if isinstance(m, Message):
            messages.append(m)
        elif isinstance(m, Mapping) and isinstance(m.get("role"), str) and "content" in m:
            messages.append(Message(m["role"], _content(m["content"], images, "prompt")))
        else:
            raise UsageError(f"prompt: expected text or messages with a text 'role' and a 'content', got {m!r:.80}")
    if not messages:
        raise UsageError("prompt: expected text or a list of messages, got an empty list")
    return tuple(messages)


def content_of(response: Any) -> Content:
    """A response in any of the usual shapes, as content: messages are joined by blank lines."""
    if isinstance(response, str | Media):
        return _content(response, iter(()), "response")
    if isinstance(response, Sequence) and response and all(_is_message(m) for m in response):
        joined: list[Part] = []
        for message in messages_of(response):
            joined += [*(["\n\n"] if joined else []), *parts_of(message.content)]
        return _simple(joined)
    return _content(response, iter(()), "response")


def _is_message(value: Any) -> bool:
    return isinstance(value, Message) or (isinstance(value, Mapping) and "role" in value)


def _content(value: Any, images: Iterator[Media], what: str) -> Content:
    if isinstance(value, str):
        return value
    if isinstance(value, Media):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise UsageError(f"{what}: expected text or a list of parts, got {value!r:.80}")
    return _simple([_part(part, images, what) for part in value])


def _part(part: Any, images: Iterator[Media], what: str) -> Part:
    if isinstance(part, str | Media):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == Modality.MOLECULE and part.get("smiles") is not None:
        return medium(Modality.MOLECULE, part["smiles"])
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in tuple(Modality):
        if part.get(kind) is not None:
            options = {name: part[name] for name in ("rate", "fps") if part.get(name) is not None}
            return medium(Modality(kind), part[kind], **options)
        if kind == Modality.IMAGE:
            image = next(images, None)
            if image is None:
                raise UsageError(f"{what}: more parts of type 'image' than there are images")
            return image
    known = ", ".join(repr(str(m)) for m in Modality)
    raise UsageError(
        f"{what}: expected parts such as {{'type': 'text', 'text': ...}} or with a type of {known}, got {part!r:.80}"
    )


def _simple(parts: Sequence[Part]) -> Content:
    """Parts of text alone are one text."""
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
