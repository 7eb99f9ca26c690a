"""What is judged: plain, frozen, picklable, free of any model library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.opening import make_media
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
        given = iter([make_media(Modality.IMAGE, image) for image in images])
        messages = parse_messages(prompt, given)
        spare = tuple(given)
        if spare:
            last = messages[-1]
            messages = (*messages[:-1], Message(last.role, (*spare, *split_content(last.content))))
        return cls(id, messages, tuple(parse_response(r) for r in responses), rubric, sample_index)

    def permute_responses(self, order: Sequence[int]) -> Comparison:
        """The same comparison with response `order[k]` at place k."""
        return replace(self, responses=tuple(self.responses[i] for i in order))

    def swap_responses(self) -> Comparison:
        """The same comparison with its responses in reverse order."""
        return self.permute_responses(range(len(self.responses))[::-1])

    @property
    def has_media(self) -> bool:
        contents = [*(m.content for m in self.prompt), *self.responses]
        return any(isinstance(part, Media) for content in contents for part in split_content(content))

    @cached_property  # every vote asks for it, and a response may be long
    def digest(self) -> str:
        """SHA-256 of what is judged, in hex: prompt, media, responses, rubric and draw, not the id."""
        what: list[Any] = [self.rubric, self._prompt_to_json(), [_content_to_json(r) for r in self.responses]]
        if self.sample_index:  # the first one is called as it was before there were others
            what.append(self.sample_index)
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    @cached_property
    def prompt_digest(self) -> str:
        """SHA-256 of what a question's candidates share, in hex: rubric, prompt and its media."""
        return hashlib.sha256(json.dumps([self.rubric, self._prompt_to_json()]).encode()).hexdigest()

    def _prompt_to_json(self) -> list[list[Any]]:
        return [[m.role, _content_to_json(m.content)] for m in self.prompt]


def _content_to_json(content: Content) -> list[list[str]]:
    """Content as JSON holds it, media by their digests."""
    return [["text", p] if isinstance(p, str) else ["media", p.digest] for p in split_content(content)]


def split_content(content: Content) -> tuple[Part, ...]:
    """Content as parts; plain text is one part."""
    return (content,) if isinstance(content, str) else content


def content_to_text(content: Content) -> str:
    """The text of a content; each medium is its modality in brackets."""
    return "".join(p if isinstance(p, str) else f"[{p.modality}]" for p in split_content(content))


def parse_messages(prompt: str | Sequence[Any], images: Iterator[Media] | None = None) -> tuple[Message, ...]:
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
            messages.append(Message(m["role"], _parse_content(m["content"], images, "prompt")))
        else:
            raise UsageError(f"prompt: expected text or messages with a text 'role' and a 'content', got {m!r:.80}")
    if not messages:
        raise UsageError("prompt: expected text or a list of messages, got an empty list")
    return tuple(messages)


def parse_response(response: Any) -> Content:
    """A response in any of the usual shapes, as content: messages are joined by blank lines."""
    if isinstance(response, str | Media):
        return _parse_content(response, iter(()), "response")
    if isinstance(response, Sequence) and response and all(_is_message(m) for m in response):
        joined: list[Part] = []
        for message in parse_messages(response):
            joined += [*(["\n\n"] if joined else []), *split_content(message.content)]
        return _merge_text_parts(joined)
    return _parse_content(response, iter(()), "response")


def _is_message(value: Any) -> bool:
    return isinstance(value, Message) or (isinstance(value, Mapping) and "role" in value)


def _parse_content(value: Any, images: Iterator[Media], what: str) -> Content:
    if isinstance(value, str):
        return value
    if isinstance(value, Media):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise UsageError(f"{what}: expected text or a list of parts, got {value!r:.80}")
    return _merge_text_parts([_parse_part(part, images, what) for part in value])


def _parse_part(part: Any, images: Iterator[Media], what: str) -> Part:
    if isinstance(part, str | Media):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == Modality.MOLECULE and part.get("smiles") is not None:
        return make_media(Modality.MOLECULE, part["smiles"])
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind in tuple(Modality):
        if part.get(kind) is not None:
            options = {name: part[name] for name in ("rate", "fps") if part.get(name) is not None}
            return make_media(Modality(kind), part[kind], **options)
        if kind == Modality.IMAGE:
            image = next(images, None)
            if image is None:
                raise UsageError(f"{what}: more parts of type 'image' than there are images")
            return image
    known = ", ".join(repr(str(m)) for m in Modality)
    raise UsageError(
        f"{what}: expected parts such as {{'type': 'text', 'text': ...}} or with a type of {known}, got {part!r:.80}"
    )


def _merge_text_parts(parts: Sequence[Part]) -> Content:
    """Parts of text alone are one text."""
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
