"""Chat turns split into pieces: trusted template text, untrusted text, and media."""

from __future__ import annotations

from dataclasses import dataclass

from flex_judge.judges.media.types import Media


@dataclass(frozen=True)
class Span:
    """A piece of text in a message."""

    text: str
    trusted: bool = False
    """Whether control tokens in the text act as control tokens. True only for text that this project writes itself."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat, split into pieces."""

    role: str
    pieces: tuple[Span | Media, ...]
