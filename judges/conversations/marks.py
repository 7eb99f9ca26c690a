"""Places of a row's media in its prompt: parts without a source, marks in the text, or before the last message."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from flex_judge.judges.conversations.messages import Part
from flex_judge.judges.conversations.parts import Pending
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality

MARKS: Mapping[Modality, re.Pattern[str]] = {
    Modality.IMAGE: re.compile(r"<image>"),
    Modality.VIDEO: re.compile(r"<video>"),
    Modality.AUDIO: re.compile(r"<audio>"),
    Modality.MOLECULE: re.compile(r"<mol>"),
}
"""Modality -> mark of its media in texts, as LLaVA, ShareGPT and verl write it."""

MARKS_PER_MOLECULE = 8
"""Number of marks of a molecule in data sets that were prepared for the query tokens of Mol-LLaMA."""


def place_media(
    messages: Sequence[Sequence[Part | Pending]], media: Mapping[Modality, Sequence[Media]], field: str
) -> list[list[Part]]:
    """Put the media of a row into the parts of its messages.

    Args:
        messages: parts of each message.
        media: media of the row, by modality.
        field: name of the prompt in error messages.

    Raises:
        UsageError: there are more places than media, or marks for some of the media only.
    """
    placed = [list(parts) for parts in messages]
    leading: list[Media] = []
    for modality in Modality:
        remaining = _drop_present(placed, media.get(modality, ()))
        remaining = _fill_parts(placed, modality, remaining)
        remaining = _fill_marks(placed, modality, remaining, field)
        leading += remaining
    placed[-1] = [*leading, *placed[-1]]
    result: list[list[Part]] = []
    for parts in placed:
        result.append([])
        for part in parts:
            if isinstance(part, Pending):
                raise part.make_error()
            result[-1].append(part)
    return result


def _drop_present(messages: list[list[Part | Pending]], media: Sequence[Media]) -> list[Media]:
    """Drop media that the messages hold already; trainers pass the same media in the messages and in a column."""
    present = [part.digest for parts in messages for part in parts if isinstance(part, Media)] if media else []
    remaining = []
    for medium in media:
        if medium.digest in present:
            present.remove(medium.digest)
        else:
            remaining.append(medium)
    return remaining


def _fill_parts(messages: list[list[Part | Pending]], modality: Modality, media: list[Media]) -> list[Media]:
    """Fill the parts without a source with the next media, and return the media that are left."""
    remaining = iter(media)
    for parts in messages:
        for i, part in enumerate(parts):
            if isinstance(part, Pending) and part.modality == modality:
                parts[i] = next(remaining, part)
    return list(remaining)


def _fill_marks(
    messages: list[list[Part | Pending]], modality: Modality, media: list[Media], field: str
) -> list[Media]:
    """Replace the marks of a modality by media, and return the media that are left: all, if there are no marks."""
    mark = MARKS.get(modality)
    if mark is None or not media:  # Without media, a text may be about the mark: `<video>` is also an HTML tag.
        return media
    marks = sum(len(mark.findall(part)) for parts in messages for part in parts if isinstance(part, str))
    if not marks:
        return media
    if modality == Modality.MOLECULE and marks == MARKS_PER_MOLECULE * len(media):
        mark, marks = re.compile(f"(?:{mark.pattern}){{{MARKS_PER_MOLECULE}}}"), len(media)
    if marks != len(media):
        raise UsageError.at_field(
            field,
            f"{mark.pattern} occurs {marks} times in the text, and the row has {len(media)} {modality}s; write one "
            f"mark for each {modality}, or none",
        )
    remaining = iter(media)
    for parts in messages:
        parts[:] = [piece for part in parts for piece in _split_at_marks(part, mark, remaining)]
    return []


def _split_at_marks(part: Part | Pending, mark: re.Pattern[str], media: Iterator[Media]) -> list[Part | Pending]:
    if not isinstance(part, str):
        return [part]
    pieces: list[Part | Pending] = []
    for i, text in enumerate(mark.split(part)):
        pieces += [next(media)] if i else []
        pieces += [text] if text else []
    return pieces
