"""Data types of inputs: messages, content and comparisons. Plain, frozen and picklable, without any model library."""

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
"""Content of a message or a response: text, or text and media in order."""
MAX_SAMPLE_INDEX = (1 << 16) - 1
"""Maximum sample index (16 bits)."""


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    """`system`, `user` or `assistant`."""
    content: Content
    """Text and media, treated as untrusted: control tokens in the text are encoded as ordinary text."""


@dataclass(frozen=True)
class Comparison:
    """One question and the responses to judge together: one (pointwise), two (pairwise) or more (listwise).

    Example:
        >>> Comparison.of("What is 2 + 3?", "It is 5.", "It is 6.").responses
        ('It is 5.', 'It is 6.')
    """

    id: str
    """Id of the comparison, unique within its run; judgments are matched to it by id, never by position."""
    prompt: tuple[Message, ...]
    """The conversation; its last message is the question."""
    responses: tuple[Content, ...]
    """Candidate answers."""
    rubric: str = "general"
    """Name of the rubric, or the path of its file."""
    sample_index: int = 0
    """Index of this judgment among repeated judgments of the same comparison, from 0 to 65535. Another index gives
    other votes, see `VoteLoop`."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample_index <= MAX_SAMPLE_INDEX:
            raise UsageError(f"sample_index must be from 0 to {MAX_SAMPLE_INDEX}, not {self.sample_index}")

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
        """Create a comparison from strings or from lists of `{"role", "content"}` messages.

        Args:
            prompt: text or messages. The content of a message is text or a list of parts such as
                `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}`,
                `{"type": "molecule", "smiles": ...}` or a `Media`.
            *responses: candidates; each is text, a `Media`, a list of parts, or messages.
            images: images of the prompt (paths, bytes, data URIs, PIL images). Parts `{"type": "image"}` without an
                image of their own take them in order; the remaining ones are put before the question.
            rubric: name of a rubric, or the path of its file.
            id: id of the comparison within its run.
            sample_index: index of this judgment among repeated judgments of the comparison.

        Raises:
            UsageError: a prompt or response has an unsupported type, or the sample index is out of range.
            MediaError: a medium cannot be read.
        """
        # One iterator is shared by all messages, so each image part takes the next image.
        pending_images = iter([make_media(Modality.IMAGE, image) for image in images])
        messages = parse_messages(prompt, pending_images)
        remaining_images = tuple(pending_images)
        if remaining_images:
            question = messages[-1]
            content = (*remaining_images, *split_content(question.content))
            messages = (*messages[:-1], Message(question.role, content))
        contents = tuple(parse_response(response) for response in responses)
        return cls(id, messages, contents, rubric=rubric, sample_index=sample_index)

    def permute_responses(self, order: Sequence[int]) -> Comparison:
        """Return the comparison with response `order[k]` in place k."""
        return replace(self, responses=tuple(self.responses[i] for i in order))

    def swap_responses(self) -> Comparison:
        """Return the comparison with its responses in reverse order."""
        return self.permute_responses(range(len(self.responses))[::-1])

    @property
    def has_media(self) -> bool:
        """Whether the prompt or a response contains media."""
        contents = [*(message.content for message in self.prompt), *self.responses]
        return any(isinstance(part, Media) for content in contents for part in split_content(content))

    @cached_property  # used by every vote, and responses can be long
    def digest(self) -> str:
        """SHA-256 hex digest of rubric, prompt, media, responses and sample index, but not of the id."""
        fields: list[Any] = [self.rubric, self._prompt_to_json(), [_content_to_json(r) for r in self.responses]]
        if self.sample_index:  # Index 0 is left out, so that digests from before sample indices existed stay valid.
            fields.append(self.sample_index)
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()

    @cached_property
    def prompt_digest(self) -> str:
        """SHA-256 hex digest of rubric, prompt and its media, which all candidates of a question share."""
        return hashlib.sha256(json.dumps([self.rubric, self._prompt_to_json()]).encode()).hexdigest()

    def _prompt_to_json(self) -> list[list[Any]]:
        return [[m.role, _content_to_json(m.content)] for m in self.prompt]


def _content_to_json(content: Content) -> list[list[str]]:
    """Convert content to JSON types, with media as their digests."""
    return [["text", p] if isinstance(p, str) else ["media", p.digest] for p in split_content(content)]


def split_content(content: Content) -> tuple[Part, ...]:
    """Split content into parts; plain text is one part."""
    return (content,) if isinstance(content, str) else content


def content_to_text(content: Content) -> str:
    """Convert content to text, with each medium as its modality in brackets."""
    return "".join(p if isinstance(p, str) else f"[{p.modality}]" for p in split_content(content))


def parse_messages(prompt: str | Sequence[Any], images: Iterator[Media] | None = None) -> tuple[Message, ...]:
    """Convert a prompt to messages; a string becomes one user message.

    Args:
        prompt: text, or a list of `Message` or `{"role", "content"}`.
        images: images for parts `{"type": "image"}` without an image of their own.

    Raises:
        UsageError: the prompt has another type or is empty.
        MediaError: a medium cannot be read.
    """
    images = iter(()) if images is None else images
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    if not isinstance(prompt, Sequence):
        raise UsageError(f"prompt: expected text or a list of messages, got {prompt!r:.80}")
    messages = []
    for message in prompt:
        if isinstance(message, Message):
            messages.append(message)
        elif isinstance(message, Mapping) and isinstance(message.get("role"), str) and "content" in message:
            messages.append(Message(message["role"], _parse_content(message["content"], images, "prompt")))
        else:
            raise UsageError(
                f"prompt: expected text or messages with a text 'role' and a 'content', got {message!r:.80}"
            )
    if not messages:
        raise UsageError("prompt: expected text or a list of messages, got an empty list")
    return tuple(messages)


def parse_response(response: Any) -> Content:
    """Convert a response to content; several messages are joined by blank lines.

    Raises:
        UsageError: the response is not text, a `Media`, a list of parts or messages.
        MediaError: a medium cannot be read.
    """
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


def _parse_content(value: Any, images: Iterator[Media], field: str) -> Content:
    if isinstance(value, str):
        return value
    if isinstance(value, Media):
        return (value,)
    if not isinstance(value, Sequence) or isinstance(value, bytes):  # bytes are a Sequence of integers
        raise UsageError(f"{field}: expected text or a list of parts, got {value!r:.80}")
    return _merge_text_parts([_parse_part(part, images, field) for part in value])


def _parse_part(part: Any, images: Iterator[Media], field: str) -> Part:
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
                raise UsageError(f"{field}: more parts of type 'image' than images; add the missing images")
            return image
    modalities = ", ".join(repr(str(modality)) for modality in Modality)
    raise UsageError(
        f"{field}: expected parts such as {{'type': 'text', 'text': ...}} or with a type of {modalities}, "
        f"got {part!r:.80}"
    )


def _merge_text_parts(parts: Sequence[Part]) -> Content:
    """Join the parts to one string if all of them are text."""
    if all(isinstance(p, str) for p in parts):
        return "".join(str(p) for p in parts)
    return tuple(parts)
