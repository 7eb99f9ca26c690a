"""OpenAI chat completions: encode prompts and parse completions."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from typing import Any

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.sampling import trim_completion
from flex_judge.judges.conversations.messages import ASSISTANT
from flex_judge.judges.conversations.openai import fill_call_ids, message_to_openai, number_call_ids, split_tools
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.media.files import convert_decoder_errors, open_image
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Content, Message, Response, Trajectory, content_to_text

Json = dict[str, Any]
IMAGE_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}
"""Image formats that endpoints accept (Pillow's names); others are converted to PNG."""
TRUNCATION_REASONS = ("length", "content_filter")
"""Finish reasons of incomplete completions."""


def encode_prompt(prompt: Sequence[Message]) -> Json:
    """Encode a prompt as fields of a request: `messages`, and `tools` if it has definitions.

    Images become data URIs, and molecules SMILES strings. Reads the headers of the images. Calls without an id get one.

    Raises:
        MediaError: The prompt has a video or audio clip; endpoints have no common format for these.
    """
    messages, tools = split_tools(prompt)
    body: Json = {"messages": [message_to_openai(message, _encode_medium) for message in fill_call_ids(messages)]}
    return body | ({"tools": list(tools)} if tools else {})


def _encode_medium(medium: Media) -> Json:
    if medium.modality == Modality.MOLECULE:
        return {"type": "text", "text": medium.data.decode()}
    if medium.modality != Modality.IMAGE:
        raise MediaError(f"{medium.name}: got {medium.modality}, but a policy behind an endpoint takes text and images")
    with convert_decoder_errors(medium.name, Modality.IMAGE):
        opened = open_image(medium.data, medium.name)
    if opened.format in IMAGE_TYPES:
        media_type = IMAGE_TYPES[opened.format]
    else:
        medium, media_type = make_image(opened), IMAGE_TYPES["PNG"]
    encoded = base64.b64encode(medium.data).decode()
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{encoded}"}}


def parse_completions(response: Any, stop: Sequence[str], url: str) -> list[Completion]:
    """Parse the completions in an endpoint's JSON response.

    Endpoints report the tokens of all completions together; the total is split in proportion to the text lengths. It
    is 0 if an endpoint reports none, or something that is no count.

    Args:
        response: The decoded JSON.
        stop: Stop strings.
        url: Address of the endpoint, for error messages.

    Raises:
        UsageError: The response is not a chat completion.
    """
    try:
        choices = [(_read_reply(choice["message"]), choice.get("finish_reason")) for choice in response["choices"]]
        tokens = _read_token_count(response.get("usage"))
    except UsageError as e:
        raise UsageError(f"{url}: expected chat completions, got one with an unknown form: {e}") from e
    except (TypeError, KeyError, AttributeError) as e:
        raise UsageError(
            f"{url}: expected chat completions, got {response!r:.80}; is this the address of an OpenAI-compatible "
            "endpoint?"
        ) from e
    # One more than the length, so that an empty text has its share of the end-of-turn tokens.
    token_counts = _split_proportionally(tokens, [len(content_to_text(reply)) + 1 for reply, _ in choices])
    return [
        Completion(_trim_reply(reply, stop), count, finish_reason in TRUNCATION_REASONS)
        for (reply, finish_reason), count in zip(choices, token_counts, strict=True)
    ]


def _read_reply(message: Json) -> Response:
    """Read the message of a choice: its text or refusal, or a trajectory if it has tool calls or reasoning.

    Some endpoints answer with neither; that is an empty text.
    """
    fields = {"content": "", **{name: value for name, value in message.items() if value is not None}}
    reply = ConversationReader(_refuse_medium).read_response({"role": ASSISTANT, **fields}, field="message")
    return number_call_ids(reply) if isinstance(reply, Trajectory) else reply


def _refuse_medium(modality: Modality, source: Any, field: str, **options: Any) -> Media:  # noqa: ARG001
    """Refuse a medium: a reply must not make this process open its own files."""
    raise MediaError(f"got a part of type {modality}, expected text")


def _trim_reply(reply: Response, stop: Sequence[str]) -> Response:
    """Cut the text of a reply at the first stop string."""
    if isinstance(reply, Trajectory):
        return Trajectory(tuple(replace(m, content=_trim_content(m.content, stop)) for m in reply.messages))
    return _trim_content(reply, stop)


def _trim_content(content: Content, stop: Sequence[str]) -> Content:
    return trim_completion(content, stop) if isinstance(content, str) else content


def _read_token_count(usage: Any) -> int:
    """Return the number of completion tokens; 0 if it is missing or not a finite number above 0."""
    count = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    if isinstance(count, bool) or not isinstance(count, int | float):
        return 0
    return int(count) if 0 < count < math.inf else 0


def _split_proportionally(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` into integers proportional to the weights that add up to `total`."""
    # Rounding the running sums instead of the parts keeps the total.
    sums = list(accumulate(weights, initial=0))
    return [b - a for a, b in pairwise(round(total * s / max(1, sums[-1])) for s in sums)]
