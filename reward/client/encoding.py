"""Comparisons and samples as JSON, split into requests. Media are sent by digest, so each is uploaded once.

Needs neither a web framework nor a model library: it runs in a trainer's process. The service decodes the rows with
`flex_judge.reward.server.decoding`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Comparison, Content, Message
from flex_judge.reward.types import Sample

Json = dict[str, Any]


def encode_comparison(comparison: Comparison) -> tuple[Json, dict[str, Media]]:
    """A row of `comparisons` in `POST /v1/judge`, and the media that it refers to, by digest.

    What comes back is the same comparison where contents are in the form that `Comparison.of` gives: text alone is
    one text.
    """
    media: dict[str, Media] = {}
    row: Json = {
        "id": comparison.id,
        "prompt": _encode_prompt(comparison.prompt, media),
        "responses": [_encode_content(response, media) for response in comparison.responses],
        "rubric": comparison.rubric,
    }
    if comparison.sample_index:
        row["sample_index"] = comparison.sample_index
    return row, media


def encode_sample(sample: Sample) -> tuple[Json, dict[str, Media]]:
    """A row of `samples` in `POST /v1/rewards`, and the media that it refers to, by digest."""
    media: dict[str, Media] = {}
    row: Json = {"prompt": _encode_prompt(sample.prompt, media), "response": _encode_content(sample.response, media)}
    if sample.baseline is not None:
        row["baseline"] = _encode_content(sample.baseline, media)
    if sample.group is not None:
        row["group"] = sample.group
    return row, media


def _encode_prompt(messages: tuple[Message, ...], media: dict[str, Media]) -> list[Json]:
    return [{"role": message.role, "content": _encode_content(message.content, media)} for message in messages]


def _encode_content(content: Content, media: dict[str, Media]) -> str | list[Json]:
    if isinstance(content, str):
        return content
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": str(part.modality), str(part.modality): _encode_media(part, media)}
        for part in content
    ]


def _encode_media(medium: Media, media: dict[str, Media]) -> str | Json:
    """What stands for a medium on the wire; those that must be uploaded for it are added to `media`."""
    if medium.modality == Modality.MOLECULE:
        return medium.data.decode()
    if medium.frames:
        return {"frames": [_encode_media(frame, media) for frame in medium.frames], "fps": medium.fps}
    media[medium.digest] = medium
    return {"digest": medium.digest}


@dataclass(frozen=True)
class Batch:
    """Items of one request."""

    at: tuple[int, ...]
    """Their numbers within the call."""
    waits: bool = False
    """Whether they wait at the service for members of their group that come from elsewhere."""


def split_into_batches(groups: Sequence[str], most: int, group_size: int | None = None) -> list[Batch]:
    """Items as requests of `most` items. What is of one group stays together, however many that are.

    Groups that are not complete within this call come first, each in a request of its own: a group's time runs from
    its first member on, and an answer comes only when all of its request is there.

    Args:
        groups: the group of each item.
        group_size: members of a complete group, where groups wait for theirs; None if none does.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    fragments: list[Batch] = []
    packed: list[list[int]] = []
    for at in members.values():
        if group_size is not None and len(at) % group_size:
            fragments.append(Batch(tuple(at), waits=True))
        elif packed and len(packed[-1]) + len(at) <= most:
            packed[-1] += at
        else:
            packed.append(list(at))
    return [*fragments, *(Batch(tuple(at)) for at in packed)]
