"""Rows of trainers and environments as samples.

Prompts and completions are text, messages of dicts or of objects, with images in the message or in a column of their
own, and with tool calls. Trainers decode the image of a prompt anew for every completion, so each is encoded once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.extras import is_instance_of
from flex_judge.judges.media import opening as media
from flex_judge.judges.media.files import MAX_PIXELS, convert_decoder_errors
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Comparison, Message, parse_response, split_content
from flex_judge.reward.types import Sample


class RowConverter:
    """Reads the rows of one call."""

    def __init__(self) -> None:
        self._picture = ImageCache()

    def build_sample(
        self, prompt: Any, response: Any, images: Sequence[Any] = (), baseline: Any = None, group: str | None = None
    ) -> Sample:
        """One completion as what is judged.

        Args:
            prompt: text or messages.
            response: text or messages; an empty one is an answer like any other.
            images: those of the row. They belong to the parts `{"type": "image"}` without an image of their own, or,
                if the prompt has no image part at all, before its question. A prompt whose parts have theirs needs
                none: trainers hand out the same pictures twice.
            baseline: the answer that it is held against.
            group: name of its group, see `Sample`.

        Raises:
            UsageError: a prompt or response of another shape.
            MediaError: an image that cannot be read, or that would have to be fetched.
        """
        messages = self._normalize_messages(prompt)
        bare, own = _count_image_parts(messages)
        extra_rewards = [self._picture(image) for image in images] if bare or not own else []
        comparison = Comparison.of(messages, self._normalize_messages(response), images=extra_rewards)
        held = None if baseline is None else parse_response(self._normalize_messages(baseline))
        return Sample(comparison.prompt, comparison.responses[0], held, group)

    def _normalize_messages(self, value: Any) -> Any:
        """Text as it is; messages as dicts with a role and a content, which `Comparison.of` takes."""
        value = to_list(value)
        return [self._normalize_message(one) for one in value] if isinstance(value, list) else value

    def _normalize_message(self, message: Any) -> Any:
        if hasattr(message, "model_dump"):
            message = message.model_dump()
        if not isinstance(message, Mapping) or "role" not in message:
            return self._normalize_part(message)
        content = to_list(message.get("content"))
        if content is None:  # an assistant that only called tools may have none
            content = ""
        parts = [self._normalize_part(part) for part in content] if isinstance(content, list) else content
        if isinstance(parts, str | list):
            parts = _append_tool_calls(parts, message.get("tool_calls") or ())
        return {"role": message["role"], "content": parts}

    def _normalize_part(self, part: Any) -> Any:
        """A part of a message; images are opened, also those in the form that OpenAI's messages have."""
        if not isinstance(part, Mapping):
            return part
        if part.get("type") == "image_url":
            source = part.get("image_url")
            url = source.get("url") if isinstance(source, Mapping) else source
            if not isinstance(url, str) or not url.startswith("data:"):
                raise MediaError(
                    f"image_url: expected a data URI, got {url!r:.80}; nothing is fetched from the network"
                )
            return self._picture(url)
        if part.get("type") == "image" and part.get("image") is not None:
            return self._picture(part["image"])
        return part


def to_list(value: Any) -> Any:
    """A sequence as a list: rows of Parquet files hold arrays of objects where JSON has lists."""
    if str(getattr(value, "dtype", "")) == "object":
        return value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def _append_tool_calls(parts: str | list[Any], calls: Sequence[Any]) -> str | list[Any]:
    """A message's content with the tools that it calls, one line of JSON each."""
    if not calls:
        return parts
    text = "\n" * bool(parts) + "\n".join(json.dumps(_extract_call(c), ensure_ascii=False, default=str) for c in calls)
    return parts + text if isinstance(parts, str) else [*parts, text]


def _extract_call(call: Any) -> Any:
    """Name and arguments of a tool call, of which there are two forms."""
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping):
        return function
    return {name: function[name] for name in ("name", "arguments") if name in function}


def _count_image_parts(messages: Any) -> tuple[int, int]:
    """How many image parts of a prompt have no image of their own, and how many media it has."""
    parts: list[Any] = []
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Message):
            parts += split_content(message.content)
        elif isinstance(message, Mapping) and isinstance(message["content"], list):
            parts += message["content"]
    bare = sum(isinstance(part, Mapping) and part.get("type") == "image" for part in parts)
    return bare, sum(isinstance(part, Media) for part in parts)


def prefix_row_error(error: UsageError, name: str, number: int) -> UsageError:
    """The same error, with the row that it is about."""
    return type(error)(f"{name}[{number}]: {error}")


ORIENTATION_TAG = 0x0112  # the EXIF tag
PLAIN_MODES = ("RGB", "L")


class ImageCache:
    """Images as media. What is there several times, as an object or by its pixels, is encoded once: hashing pixels
    takes a fiftieth of the time of a PNG.
    """

    def __init__(self) -> None:
        self._known: dict[Any, tuple[Any, Media]] = {}

    def __call__(self, source: Any) -> Media:
        """Raises MediaError, see `media.image`."""
        if isinstance(source, Media):
            return media.make_image(source)
        if id(source) in self._known:
            return self._known[id(source)][1]
        pixels = _hash_pixels(source)
        found = self._known.get(pixels) if pixels else None
        picture = found[1] if found else media.make_image(source)
        self._known[id(source)] = source, picture  # the object is kept, so that its id stays its own
        if pixels:
            self._known[pixels] = source, picture
        return picture


def _hash_pixels(source: Any) -> tuple[Any, ...] | None:
    """What two PIL images share that show the same; None where that takes more than a look at the pixels."""
    if (
        not is_instance_of(source, "PIL.Image", "Image")
        or source.mode not in PLAIN_MODES
        or source.width * source.height > MAX_PIXELS
    ):
        return None
    with convert_decoder_errors(str(getattr(source, "filename", "")) or "image", Modality.IMAGE):
        if source.has_transparency_data or source.getexif().get(ORIENTATION_TAG, 1) != 1:
            return None
        return source.mode, source.size, hashlib.sha256(source.tobytes()).digest()
