"""Convert rows of trainers and environments to samples.

Prompts and completions can be text or messages (dicts or objects), with images in the messages or in a separate column,
and with tool calls. Trainers decode a prompt's image again for every completion, so each image is encoded only once.
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
    """Converter of the rows of one call; equal images are encoded once."""

    def __init__(self) -> None:
        self._encode_image = ImageCache()

    def build_sample(
        self, prompt: Any, response: Any, images: Sequence[Any] = (), baseline: Any = None, group: str | None = None
    ) -> Sample:
        """Build the sample of one completion.

        Args:
            prompt: text or messages.
            response: text or messages; an empty response is valid.
            images: images of the row. They fill the parts `{"type": "image"}` that have no image of their own. A prompt
                without image parts gets them before its question. If all image parts have their own images, these
                are ignored: trainers pass the same images in both places.
            baseline: the answer that the response is compared with.
            group: name of the group, see `Sample`.

        Raises:
            UsageError: a prompt or response has an unknown format.
            MediaError: an image cannot be read, or would have to be fetched from the network.
        """
        messages = self._normalize_messages(prompt)
        num_placeholders, num_media = _count_image_parts(messages)
        row_images = [self._encode_image(image) for image in images] if num_placeholders or not num_media else []
        comparison = Comparison.of(messages, self._normalize_messages(response), images=row_images)
        baseline_content = None if baseline is None else parse_response(self._normalize_messages(baseline))
        return Sample(comparison.prompt, comparison.responses[0], baseline_content, group)

    def _normalize_messages(self, value: Any) -> Any:
        """Convert messages to dicts with role and content, as `Comparison.of` expects; text stays unchanged."""
        value = to_list(value)
        return [self._normalize_message(message) for message in value] if isinstance(value, list) else value

    def _normalize_message(self, message: Any) -> Any:
        if hasattr(message, "model_dump"):
            message = message.model_dump()
        if not isinstance(message, Mapping) or "role" not in message:
            return self._normalize_part(message)
        content = to_list(message.get("content"))
        if content is None:  # an assistant message that consists of tool calls
            content = ""
        parts = [self._normalize_part(part) for part in content] if isinstance(content, list) else content
        if isinstance(parts, str | list):
            parts = _append_tool_calls(parts, message.get("tool_calls") or ())
        return {"role": message["role"], "content": parts}

    def _normalize_part(self, part: Any) -> Any:
        """Encode the image of a message part, including OpenAI's `image_url`; other parts stay unchanged."""
        if not isinstance(part, Mapping):
            return part
        if part.get("type") == "image_url":
            source = part.get("image_url")
            url = source.get("url") if isinstance(source, Mapping) else source
            # A completion may contain any URL: fetching it would let a policy send requests from this machine.
            if not isinstance(url, str) or not url.startswith("data:"):
                raise MediaError(
                    f"image_url: expected a data URI, got {url!r:.80}; nothing is fetched from the network"
                )
            return self._encode_image(url)
        if part.get("type") == "image" and part.get("image") is not None:
            return self._encode_image(part["image"])
        return part


def to_list(value: Any) -> Any:
    """Convert a sequence to a list, including the object arrays in rows of Parquet files; other values stay as is."""
    if str(getattr(value, "dtype", "")) == "object":
        return value.tolist()
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def _append_tool_calls(parts: str | list[Any], calls: Sequence[Any]) -> str | list[Any]:
    """Append the tool calls of a message to its content, one line of JSON each."""
    if not calls:
        return parts
    # `default=str` because arguments may hold objects that are not JSON; a completion must never end the run.
    lines = [json.dumps(_extract_call(call), ensure_ascii=False, default=str) for call in calls]
    text = ("\n" if parts else "") + "\n".join(lines)
    return parts + text if isinstance(parts, str) else [*parts, text]


def _extract_call(call: Any) -> Any:
    """Extract name and arguments of a tool call, which may be nested under `function`."""
    function = call.get("function", call) if isinstance(call, Mapping) else call
    if not isinstance(function, Mapping):
        return function
    return {name: function[name] for name in ("name", "arguments") if name in function}


def _count_image_parts(messages: Any) -> tuple[int, int]:
    """Count the image parts without an image of their own, and the media in a prompt."""
    parts: list[Any] = []
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, Message):
            parts += split_content(message.content)
        elif isinstance(message, Mapping) and isinstance(message["content"], list):
            parts += message["content"]
    num_placeholders = sum(isinstance(part, Mapping) and part.get("type") == "image" for part in parts)
    return num_placeholders, sum(isinstance(part, Media) for part in parts)


def get_row_images(columns: Mapping[str, Any], count: int) -> list[Sequence[Any]]:
    """Get the images of each of `count` rows, from the column `images` (a list per row) or `image` (one per row)."""
    if columns.get("images") is not None:
        rows: list[Sequence[Any]] = []
        for row in columns["images"]:
            rows.append(row if isinstance(row, list | tuple) else [] if row is None else [row])
        return rows
    if columns.get("image") is not None:
        return [[] if row is None else [row] for row in columns["image"]]
    return [()] * count


def prefix_row_error(error: UsageError, name: str, index: int) -> UsageError:
    """Return a copy of an error whose message names the row, such as `prompts[3]: ...`."""
    return type(error)(f"{name}[{index}]: {error}")


ORIENTATION_TAG = 0x0112
"""EXIF tag of the image orientation."""
PLAIN_MODES = ("RGB", "L")
"""PIL modes that are encoded without conversion."""


class ImageCache:
    """Encoder of images that encodes equal images once.

    Images are equal if they are the same object or have the same pixels. Hashing the pixels takes a fiftieth of the
    time that PNG encoding takes.
    """

    def __init__(self) -> None:
        self._cache: dict[Any, tuple[Any, Media]] = {}

    def __call__(self, source: Any) -> Media:
        """Encode an image.

        Raises:
            MediaError: the image cannot be read, see `make_image`.
        """
        if isinstance(source, Media):
            return media.make_image(source)
        if id(source) in self._cache:
            return self._cache[id(source)][1]
        pixel_hash = _hash_pixels(source)
        equal = self._cache.get(pixel_hash) if pixel_hash else None
        image = equal[1] if equal else media.make_image(source)
        # The source is kept alive, because Python may reuse the id of a deleted object.
        self._cache[id(source)] = source, image
        if pixel_hash:
            self._cache[pixel_hash] = source, image
        return image


def _hash_pixels(source: Any) -> tuple[Any, ...] | None:
    """Hash the pixels of a PIL image.

    Returns:
        None if equal pixels do not imply the same encoding: other modes, transparency, or an EXIF orientation.
    """
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
