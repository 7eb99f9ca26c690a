"""Prompts and completions in the form of OpenAI's chat completions, as the servers of most models take them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.sampling import trim_completion
from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.files import convert_decoder_errors, open_image
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Message

Json = dict[str, Any]
IMAGE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""Formats that endpoints take, by Pillow's names; others are sent as PNG."""
TRUNCATION_REASONS = ("length", "content_filter")
"""Reasons for which a completion is not whole."""


def encode_prompt(prompt: Sequence[Message]) -> list[Json]:
    """Messages as JSON: text as text, images as data URIs, molecules as their SMILES. Reads the images' headers.

    Raises:
        MediaError: a video or a sound: there is no form for them that endpoints agree on.
    """
    return [{"role": message.role, "content": _encode_content(message)} for message in prompt]


def _encode_content(message: Message) -> str | list[Json]:
    if isinstance(message.content, str):
        return message.content
    return [{"type": "text", "text": p} if isinstance(p, str) else _encode_medium(p) for p in message.content]


def _encode_medium(medium: Media) -> Json:
    if medium.modality == Modality.MOLECULE:
        return {"type": "text", "text": medium.data.decode()}
    if medium.modality != Modality.IMAGE:
        raise MediaError(f"{medium.name}: a policy behind an endpoint is sent text and images, no {medium.modality}")
    with convert_decoder_errors(medium.name, Modality.IMAGE):
        opened = open_image(medium.data, medium.name)
    if opened.format not in IMAGE_TYPES:
        medium, kind = make_image(opened), IMAGE_TYPES["PNG"]
    else:
        kind = IMAGE_TYPES[opened.format]
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(medium.data).decode()}"}}


def parse_completions(answer: Any, stop: Sequence[str], url: str) -> list[Completion]:
    """The completions in an endpoint's answer.

    An endpoint counts the tokens of all of them together; each is given a share of these by its length. Where it does
    not count any, they are 0.

    Raises:
        UsageError: the answer is no chat completion.
    """
    try:
        choices = [(_extract_text(choice["message"]), choice.get("finish_reason")) for choice in answer["choices"]]
        tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    except (TypeError, KeyError, AttributeError, ValueError) as e:
        raise UsageError(
            f"{url}: expected chat completions, got {answer!r:.80}; is this the address of an OpenAI-compatible "
            "endpoint?"
        ) from e
    shares = _split_proportionally(tokens, [len(text) + 1 for text, _ in choices])
    return [
        Completion(trim_completion(text, stop), share, reason in TRUNCATION_REASONS)
        for (text, reason), share in zip(choices, shares, strict=True)
    ]


def _extract_text(message: Json) -> str:
    """What a model says, or says instead; an endpoint that is asked for no tools may still answer with none of both."""
    return str(message.get("content") or message.get("refusal") or "")


def _split_proportionally(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts of `total` in proportion to the weights, which add up to it."""
    sums = list(accumulate(weights, initial=0))
    return [b - a for a, b in pairwise(round(total * s / max(1, sums[-1])) for s in sums)]
