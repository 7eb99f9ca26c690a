"""Parts of a message's content: texts and media, in the forms of chat templates, APIs and data sets.

`place_media` puts the media of a row into the parts of its prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.conversations.values import describe_value, is_empty, to_mapping, to_plain_value
from flex_judge.judges.errors import UsageError
from flex_judge.judges.media.types import Media, Modality

TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
REASONING_PARTS = ("thinking", "reasoning")
"""Parts whose text is the reasoning of their message."""
MEDIA_PARTS: Mapping[str, Modality] = {
    **{str(modality): modality for modality in Modality},
    **{f"{modality}_url": modality for modality in Modality},
    "input_image": Modality.IMAGE,
    "input_audio": Modality.AUDIO,
    "input_video": Modality.VIDEO,
}
"""Type of a part -> modality of its medium."""
SOURCE_FIELDS = ("url", "path", "data", "base64", "bytes", "smiles", "frames")
"""Fields of a part or of its medium that hold the source."""
OPTION_FIELDS = ("rate", "fps", "sampling_rate")
IGNORED_PART_FIELDS = ("type", "detail", "format", "id", "index", "mime_type", "annotations", "logprobs")
"""Fields of parts that do not change what the judge is shown."""

MARKS: Mapping[Modality, re.Pattern[str]] = {
    Modality.IMAGE: re.compile(r"<image>"),
    Modality.VIDEO: re.compile(r"<video>"),
    Modality.AUDIO: re.compile(r"<audio>"),
    Modality.MOLECULE: re.compile(r"<mol>"),
}
"""Modality -> mark of its media in texts, as LLaVA, ShareGPT and verl write it."""

MARKS_PER_MOLECULE = 8
"""Number of marks of a molecule in data sets that were prepared for the query tokens of Mol-LLaMA."""


@dataclass(frozen=True)
class Pending:
    """A medium without a source of its own: the next medium of the row stands here."""

    modality: Modality
    field: str

    def make_error(self, has_column: bool = True) -> UsageError:
        """Make the error of a part without a medium.

        Args:
            has_column: whether a column of the row could have given it.
        """
        if not has_column:
            return UsageError.at_field(f"{self.field}.{self.modality}", "is missing")
        return UsageError.at_field(
            self.field, f"more parts of type '{self.modality}' than {self.modality}s; add the missing {self.modality}s"
        )


@dataclass(frozen=True)
class MediaSource:
    """Source of a medium in a part; the value is None if the part has none."""

    modality: Modality
    value: Any
    field: str
    unknown_fields: tuple[str, ...] = ()


def read_text_part(row: Mapping[str, Any], field: str) -> Any:
    """Return the text of a part; None if the part is no text.

    Raises:
        UsageError: a text part has no text.
    """
    kind = row.get("type")
    if kind is None and isinstance(row.get("text"), str) and not _find_modality(row):
        return row["text"]
    if kind not in (*TEXT_PARTS, *REASONING_PARTS):
        return None
    name = next((name for name in ("text", str(kind), "content") if row.get(name) is not None), "text")
    text = to_plain_value(row.get(name))
    if not isinstance(text, str):
        problem = "is missing" if text is None else f"expected text, got {describe_value(text)}"
        raise UsageError.at_field(f"{field}.{name}", problem)
    return text


def list_unknown_text_fields(row: Mapping[str, Any]) -> list[str]:
    """List the fields of a text part that the judge is not shown."""
    known = ("text", "content", str(row.get("type")), *IGNORED_PART_FIELDS)
    return [name for name, value in row.items() if name not in known and not is_empty(value)]


def find_source(row: Mapping[str, Any], field: str) -> MediaSource:
    """Find the medium of a part.

    Raises:
        UsageError: the part has an unknown type.
    """
    kind = row.get("type")
    name = str(kind) if kind is not None else _find_modality(row)
    if name not in MEDIA_PARTS:
        modalities = ", ".join(repr(str(modality)) for modality in Modality)
        raise UsageError.at_field(
            field,
            f"expected a part with a type of 'text', 'image_url', 'input_audio', {modalities}; "
            f"got {describe_value(row)}",
        )
    modality = MEDIA_PARTS[name]
    names = tuple(dict.fromkeys((name, str(modality), f"{modality}_url", f"input_{modality}", *SOURCE_FIELDS)))
    known = (*names, *OPTION_FIELDS, *IGNORED_PART_FIELDS)
    unknown = tuple(n for n, value in row.items() if n not in known and not is_empty(value))
    for source_name in names:
        if not is_empty(row.get(source_name)):
            value = row[source_name]
            others = (n for n in names[: -len(SOURCE_FIELDS)] if n != source_name and not is_empty(row.get(n)))
            unknown += tuple(n for n in others if row[n] is not value and row[n] != value)
            if source_name in ("data", "base64") and isinstance(value, str):
                value = _to_data_uri(value)
            return MediaSource(modality, unwrap_source(value), f"{field}.{source_name}", unknown)
    return MediaSource(modality, None, field, unknown)


def unwrap_source(value: Any) -> Any:
    """Return the source inside an object such as `{"url": ...}`, `{"data", "format"}` or `{"image": ...}`.

    Objects that `make_media` takes (`{"bytes", "path"}`, `{"array", "sampling_rate"}`), references of the HTTP service
    (`{"digest"}`, `{"frames", "fps"}`) and other values are unchanged.
    """
    row = to_mapping(value) if isinstance(value, Mapping) or hasattr(value, "model_dump") else None
    if row is None:
        return value
    if not is_empty(row.get("bytes")) or not is_empty(row.get("array")) or "digest" in row or "frames" in row:
        return value
    for name in (*map(str, Modality), *(f"{modality}_url" for modality in Modality)):
        if not is_empty(row.get(name)):
            return unwrap_source(row[name])
    for name in ("data", "base64"):
        if isinstance(row.get(name), str):
            return _to_data_uri(row[name])
    return row["url"] if isinstance(row.get("url"), str) else value


def _to_data_uri(text: str) -> str:
    return text if text.startswith("data:") else f"data:application/octet-stream;base64,{text}"


def read_options(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read the options of a medium that is given as frames or samples."""
    options = {name: row[name] for name in ("rate", "fps") if row.get(name) is not None}
    if row.get("sampling_rate") is not None:
        options["rate"] = row["sampling_rate"]
    return options


def _find_modality(row: Mapping[str, Any]) -> str:
    """Return the name of the field that holds the medium of a part without a type; empty without one."""
    return next((name for name in MEDIA_PARTS if not is_empty(row.get(name))), "")


def place_media(
    messages: Sequence[Sequence[str | Media | Pending]],
    media: Mapping[Modality, Sequence[Media]],
    question: int,
    field: str,
) -> list[list[str | Media]]:
    """Put the media of a row into the parts of its messages.

    Args:
        messages: parts of each message.
        media: media of the row, by modality.
        question: index of the message that gets the media without a place, before its content.
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
    placed[question] = [*leading, *placed[question]]
    result: list[list[str | Media]] = []
    for parts in placed:
        result.append([])
        for part in parts:
            if isinstance(part, Pending):
                raise part.make_error()
            result[-1].append(part)
    return result


def _drop_present(messages: list[list[str | Media | Pending]], media: Sequence[Media]) -> list[Media]:
    """Drop media that the messages hold already; trainers pass the same media in the messages and in a column."""
    present = [part.digest for parts in messages for part in parts if isinstance(part, Media)] if media else []
    remaining = []
    for medium in media:
        if medium.digest in present:
            present.remove(medium.digest)
        else:
            remaining.append(medium)
    return remaining


def _fill_parts(messages: list[list[str | Media | Pending]], modality: Modality, media: list[Media]) -> list[Media]:
    """Fill the parts without a source with the next media, and return the media that are left."""
    remaining = iter(media)
    for parts in messages:
        for i, part in enumerate(parts):
            if isinstance(part, Pending) and part.modality == modality:
                parts[i] = next(remaining, part)
    return list(remaining)


def _fill_marks(
    messages: list[list[str | Media | Pending]], modality: Modality, media: list[Media], field: str
) -> list[Media]:
    """Replace the marks of a modality by media, and return the media that are left: all, if there are no marks."""
    mark = MARKS[modality]
    if not media:  # Without media, a text may be about the mark: `<video>` is also an HTML tag.
        return media
    marks = _count_marks(messages, mark)
    if not marks:
        return media
    if modality == Modality.MOLECULE and marks == MARKS_PER_MOLECULE * len(media):
        run = re.compile(f"(?:{mark.pattern}){{{MARKS_PER_MOLECULE}}}")
        # Marks that do not follow each other would leave a molecule without a place.
        if _count_marks(messages, run) == len(media):
            mark, marks = run, len(media)
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


def _count_marks(messages: list[list[str | Media | Pending]], mark: re.Pattern[str]) -> int:
    return sum(len(mark.findall(part)) for parts in messages for part in parts if isinstance(part, str))


def _split_at_marks(
    part: str | Media | Pending, mark: re.Pattern[str], media: Iterator[Media]
) -> list[str | Media | Pending]:
    if not isinstance(part, str):
        return [part]
    pieces: list[str | Media | Pending] = []
    for i, text in enumerate(mark.split(part)):
        pieces += [next(media)] if i else []
        pieces += [text] if text else []
    return pieces
