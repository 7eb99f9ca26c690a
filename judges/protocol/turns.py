"""Turns of a chat in pieces: our own trusted words, untrusted text, and media."""

from __future__ import annotations

from dataclasses import dataclass

from flex_judge.judges.media.types import Media


@dataclass(frozen=True)
class Span:
    """A piece of a message."""

    text: str
    trusted: bool = False
    """Whether control tokens written in the text are meant as such: true for our own words only."""


@dataclass(frozen=True)
class Turn:
    """One message of a chat, in pieces."""

    role: str
    pieces: tuple[Span | Media, ...]
