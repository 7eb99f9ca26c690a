"""Convert rows of trainers and environments to samples.

Prompts and completions can be text or messages in any form that `flex_judge.judges.conversations` reads, with media in
the messages or in separate columns. Trainers decode a prompt's image again for every completion, so each image is
encoded only once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flex_judge.judges.conversations.columns import MEDIA_COLUMNS, PROMPT_COLUMNS, TOOLS_COLUMN, read_row_prompt
from flex_judge.judges.conversations.messages import VIEWS, View
from flex_judge.judges.conversations.reader import ConversationReader
from flex_judge.judges.conversations.values import is_missing
from flex_judge.judges.errors import MediaError, UsageError
from flex_judge.judges.extras import is_instance_of
from flex_judge.judges.media import opening as media
from flex_judge.judges.media.files import MAX_PIXELS, convert_decoder_errors
from flex_judge.judges.media.opening import open_local_media
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.integrations.converted import ConvertedRows
from flex_judge.reward.types import Sample


class RowConverter:
    """Converter of the rows of one call; equal images are encoded once."""

    def __init__(self, view: View = "full", media_columns: Mapping[Modality, tuple[str, ...]] = MEDIA_COLUMNS) -> None:
        """Create a converter.

        Args:
            view: `final` shows the judge only the final answer of a trajectory.
            media_columns: names of the columns with media.
        """
        if view not in VIEWS:
            raise UsageError(f"view must be one of {', '.join(VIEWS)}, not {view!r}")
        self._view: View = view
        self._media_columns = media_columns
        self._encode_image = ImageCache()
        self._reader = ConversationReader(self._open_media)

    def convert_rows(self, rows: Iterable[Mapping[str, Any]], name: str = "prompts") -> ConvertedRows:
        """Convert the rows of one call; a row that cannot be read costs itself only.

        Args:
            rows: arguments of `build_sample`.
            name: name of the rows in error messages.
        """
        samples: list[Sample] = []
        problems: dict[int, str] = {}
        for i, row in enumerate(rows):
            try:
                samples.append(self.build_sample(**row))
            except UsageError as e:
                problems[i] = f"{name}[{i}]: {e}"
        return ConvertedRows(samples, problems)

    def build_sample(
        self,
        prompt: Any,
        response: Any,
        columns: Mapping[str, Any] | None = None,
        baseline: Any = None,
        group: str | None = None,
        baseline_column: str | None = None,
    ) -> Sample:
        """Build the sample of one completion.

        A response that cannot be read gives a sample with a `problem`, so that its group does not wait for it.

        Args:
            prompt: text or messages.
            response: text or messages; an empty response is valid.
            columns: other columns of the row; its media and `tools` belong to the prompt, see
                `flex_judge.judges.conversations.columns`.
            baseline: the answer that the response is compared with.
            group: name of the group, see `Sample`.
            baseline_column: name of the column with the baseline, if the row must have one.

        Raises:
            UsageError: the prompt or the baseline has an unknown form.
            MediaError: a medium cannot be read, or would have to be fetched from the network.
        """
        row = {**(columns or {}), "prompt": prompt}
        messages = read_row_prompt(self._reader, row, columns=self._media_columns)
        read = self._reader.read_response
        baseline = None if is_missing(baseline) else baseline
        if baseline is None and baseline_column is not None:
            raise UsageError.at_field(baseline_column, "expected an answer to compare the completion with, got null")
        baseline_content = None if baseline is None else read(baseline, self._view, "baseline")
        try:
            content = read(response, self._view)
        except UsageError as e:
            return Sample(messages, "", baseline_content, group, problem=str(e))
        return Sample(messages, content, baseline_content, group)

    def _open_media(self, modality: Modality, source: Any, field: str, **options: Any) -> Media:
        # A policy or its tools may write any URL or path: opening it would let them read this machine and its network.
        for path in _iter_paths(source) if modality != Modality.MOLECULE else ():
            if field.startswith("response") or "://" in path[:16]:
                raise MediaError(
                    f"expected a data URI, got {path!r:.80}; nothing is fetched from the network, and paths are opened "
                    "only in prompts"
                )
        if modality == Modality.IMAGE and not options:
            return self._encode_image(source)
        return open_local_media(modality, source, field, **options)


def _iter_paths(source: Any) -> Iterator[str]:
    """Iterate over the paths and URLs in the source of a medium, which may be a list of frames or an object."""
    if isinstance(source, str):
        if not source.startswith("data:"):
            yield source
    elif isinstance(source, os.PathLike):
        yield os.fsdecode(source)
    elif isinstance(source, Mapping):
        if source.get("bytes") is None:
            yield from _iter_paths(source.get("path"))
        yield from _iter_paths(source.get("frames"))
    elif isinstance(source, Sequence) and not isinstance(source, bytes | bytearray | memoryview):
        for item in source:
            yield from _iter_paths(item)


def list_rows(columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """List the columns of each of `count` rows that belong to its prompt; null values are left out.

    Args:
        columns: columns of a batch, each with one value per row.
        count: number of rows.

    Raises:
        UsageError: a column has another length.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for name in PROMPT_COLUMNS:
        values = columns.get(name)
        if values is None:
            continue
        if not _is_column(values, count):
            if name == TOOLS_COLUMN:  # trainers with tools of their own may pass them under the same name
                continue
            raise UsageError(f"{name}: expected a column with one value for each of {count} completions")
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                row[name] = value
    return rows


def _is_column(values: Any, count: int) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == count


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
