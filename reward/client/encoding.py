"""Encode comparisons and samples as JSON, split them into requests, and build their results.

Media are referenced by digest, so each file is uploaded once. This module runs in a trainer's process and needs neither
a web framework nor a model library. The service decodes the rows with `flex_judge.reward.server.decoding`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from flex_judge.judges.conversations.openai import message_to_openai, response_to_openai
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.rubrics import make_inline_name
from flex_judge.judges.types import Comparison, Message, Response
from flex_judge.reward.types import Reward, Sample

Json = dict[str, Any]
_LOCATION = re.compile(r"^(comparisons|samples)\[\d+\](\.|: )")
"""Place of a row in its request, at the start of the service's detail."""


def encode_rubric(name: str) -> str:
    """Return the name of a rubric for a service: the content of a rubric file, because the service cannot open it."""
    return _read_rubric_file(name) if name.endswith(".toml") and Path(name).is_file() else name


@lru_cache(maxsize=64)
def _read_rubric_file(path: str) -> str:
    """Read a rubric file once, so that a later change cannot change the criteria in the middle of a run."""
    return make_inline_name(path)


def encode_comparison(comparison: Comparison) -> tuple[Json, dict[str, Media]]:
    """Encode a comparison for `POST /v1/judge`.

    Decoding gives an equal comparison if its contents are in the normal form that `Comparison.of` creates (a content
    of text only is one string).

    Returns:
        The JSON row, and the media that it references, by digest.
    """
    media: dict[str, Media] = {}
    row: Json = {
        "id": comparison.id,
        "prompt": _encode_prompt(comparison.prompt, media),
        "responses": [_encode_response(response, media) for response in comparison.responses],
        "rubric": encode_rubric(comparison.rubric),
    }
    if comparison.sample_index:
        row["sample_index"] = comparison.sample_index
    return row, media


def encode_sample(sample: Sample) -> tuple[Json, dict[str, Media]]:
    """Encode a sample for `POST /v1/rewards`.

    Returns:
        The JSON row, and the media that it references, by digest.
    """
    media: dict[str, Media] = {}
    row: Json = {"prompt": _encode_prompt(sample.prompt, media), "response": _encode_response(sample.response, media)}
    if sample.baseline is not None:
        row["baseline"] = _encode_response(sample.baseline, media)
    if sample.group is not None:
        row["group"] = sample.group
    if sample.problem:
        row["problem"] = sample.problem
    return row, media


# Definitions of tools stay the text that they are, so that the service computes the same digest.
def _encode_prompt(messages: tuple[Message, ...], media: dict[str, Media]) -> list[Json]:
    return [message_to_openai(message, partial(_encode_part, media=media), str) for message in messages]


def _encode_response(response: Response, media: dict[str, Media]) -> str | list[Json]:
    encoded: str | list[Json] = response_to_openai(response, partial(_encode_part, media=media), str)
    return encoded


def _encode_part(medium: Media, media: dict[str, Media]) -> Json:
    modality = str(medium.modality)
    return {"type": modality, modality: _encode_media(medium, media)}


def _encode_media(medium: Media, media: dict[str, Media]) -> str | Json:
    """Encode a medium as a reference; files that must be uploaded are added to `media`."""
    if medium.modality == Modality.MOLECULE:
        return medium.data.decode()
    if medium.frames:
        return {"frames": [_encode_media(frame, media) for frame in medium.frames], "fps": medium.fps}
    media[medium.digest] = medium
    return {"digest": medium.digest}


@dataclass(frozen=True)
class Batch:
    """Items of one request."""

    indices: tuple[int, ...]
    """Indices of the items within the call."""
    waits: bool = False
    """Whether the request waits at the service for group members from other callers."""


def split_into_batches(groups: Sequence[str], max_items: int, group_size: int | None = None) -> list[Batch]:
    """Split the items of one call into requests.

    Items of one group stay in one request, even if they are more than `max_items`. Groups that are incomplete within
    this call come first, each in its own request: the timeout of a group starts with its first member, and a
    response arrives only when every group of its request is judged.

    Args:
        groups: group identity of each item.
        max_items: maximum number of items in a request.
        group_size: number of members in a complete group; None if no group waits for members of other calls.
    """
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    incomplete: list[Batch] = []
    packed: list[list[int]] = []
    for indices in members.values():
        if group_size is not None and len(indices) % group_size:
            incomplete.append(Batch(tuple(indices), waits=True))
        # Only the last request is filled up, so that items are sent in order.
        elif packed and len(packed[-1]) + len(indices) <= max_items:
            packed[-1] += indices
        else:
            packed.append(list(indices))
    return [*incomplete, *(Batch(tuple(indices)) for indices in packed)]


@dataclass(frozen=True)
class InvalidItem:
    """Item that the client did not send, because the service cannot take one of its media."""

    detail: str


ItemRow = dict[str, Any] | InvalidItem | str
"""The service's JSON row for an item, or a description of the problem if there was no response for it."""


def build_judgment(id: str, row: ItemRow) -> Judgment:
    """Build the judgment of an item.

    Args:
        id: id of the comparison.
        row: result of the item.
    """
    if isinstance(row, str):
        return Judgment.from_failure(id, Status.TIMEOUT, row)
    if isinstance(row, InvalidItem):
        return Judgment.from_failure(id, Status.INVALID_INPUT, row.detail)
    judgment = Judgment.from_json(row)
    if judgment.status != Status.INVALID_INPUT:
        return judgment
    votes = [replace(vote, detail=_LOCATION.sub("", vote.detail)) for vote in judgment.votes]
    return replace(judgment, votes=tuple(votes))


def build_reward(row: ItemRow) -> Reward:
    """Build the reward of an item from its result."""
    if isinstance(row, str):
        return Reward(None, Status.TIMEOUT, detail=row)
    if isinstance(row, InvalidItem):
        return Reward(None, Status.INVALID_INPUT, detail=row.detail)
    reward = Reward.from_json(row)
    return replace(reward, detail=_LOCATION.sub("", reward.detail))


def is_judged(row: ItemRow) -> bool:
    """Whether there is a result for the item, even if it is a final failure such as overlong or invalid_input."""
    if isinstance(row, InvalidItem):
        return True
    if isinstance(row, str):
        return False
    is_final = row["status"] in [status for status in Status if status.is_final]
    return is_final or row.get("score") is not None


def describe_problem(row: ItemRow) -> str:
    """Describe why an item was not judged."""
    if isinstance(row, str):
        return row
    assert isinstance(row, dict), "an invalid item is no outage"
    details = [row.get("detail"), *(vote.get("detail") for vote in row.get("votes", ()))]
    detail = next(filter(None, details), "no detail given")
    return f"the service responds, but judges nothing (status {row['status']}): {detail}"
