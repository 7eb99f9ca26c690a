"""Resolve media references of requests: uploaded files, data inside the request, and URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.conversations.columns import PROMPT_COLUMNS
from flex_judge.judges.errors import MediaError, is_input_error
from flex_judge.judges.judgments import Status
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.server.auth import check_depth
from flex_judge.reward.server.decoding import MediaReference, ResolveMedia, decode_reference, decode_sample
from flex_judge.reward.server.errors import FieldError, MediaFetchError, MissingMediaError
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher
from flex_judge.reward.server.row_failures import RowFailure, try_row
from flex_judge.reward.types import Sample

T = TypeVar("T")
EncodedRow = tuple[str, Callable[[ResolveMedia], T]]
"""Field of a row in its request, and the function that decodes the row with its media."""
DecodeRow = Callable[[Any, str, ResolveMedia], T]
"""Function that decodes a row: (row, field, media) -> comparison or sample."""
RowReferences = list[tuple[MediaReference, str]]
"""Media references of a row in decoding order, each with its field in the request."""
MediaKey = tuple[Modality, str, str]
"""(modality, kind, value) of a reference to a single file."""
MediaByKey = dict[MediaKey, Media | Exception]
"""Medium of each key, or the error of reading it."""


def name_rows(rows: Iterable[tuple[str, Any]], decode: DecodeRow[T]) -> list[EncodedRow[T]]:
    """Pair the field of each row, such as `samples[0]`, with the function that decodes the row."""

    def decode_row(row: Any, field: str, media: ResolveMedia) -> T:
        check_depth(row, field)
        return decode(row, field, media)

    return [(field, partial(decode_row, row, field)) for field, row in rows]


class MediaDecoder:
    """Decoder of request rows that reads their media without blocking the event loop.

    Rows are decoded twice: first with placeholders, to list the references of the whole request, then with the media.
    So all missing uploads are reported together, and equal references are read once. A row that cannot be decoded does
    not affect the others.
    """

    def __init__(self, store: MediaStore, urls: UrlFetcher, max_media: int) -> None:
        """Create a decoder.

        Args:
            store: uploaded media.
            urls: fetcher of media by URL.
            max_media: maximum number of media in one row; each frame of a video counts.
        """
        self._store = store
        self._urls = urls
        self._max_media = max_media

    async def decode_rows(self, rows: Sequence[EncodedRow[T]]) -> list[T | RowFailure]:
        """Decode rows with their media.

        Returns:
            The decoded rows in order. A row that is invalid, has too many media, or has a medium that cannot be read
            or fetched is a failure.

        Raises:
            MissingMediaError: media were not uploaded, or were evicted; the error lists all of them.
        """
        decoded = await asyncio.to_thread(self._list_references, rows)
        references = [row.references for row in decoded if isinstance(row, _ListedRow)]
        media = await self._resolve_references(references) if any(references) else {}
        return await asyncio.to_thread(_decode_with_media, rows, decoded, media)

    async def decode_samples(self, rows: Sequence[tuple[str, Any]]) -> list[Sample | RowFailure]:
        """Decode samples. One that is invalid still is a member of its group if its prompt can be read.

        Args:
            rows: field and JSON of each sample.
        """
        samples = await self.decode_rows(name_rows(rows, decode_sample))
        invalid: list[int] = []
        members: list[tuple[str, Any]] = []
        for i, ((field, row), sample) in enumerate(zip(rows, samples, strict=True)):
            if isinstance(sample, RowFailure) and sample.status == Status.INVALID_INPUT and isinstance(row, dict):
                prompt = {name: row[name] for name in ("prompt", "group", *PROMPT_COLUMNS) if name in row}
                invalid.append(i)
                members.append((field, {**prompt, "response": "", "problem": sample.detail}))
        for i, member in zip(invalid, await self.decode_rows(name_rows(members, decode_sample)), strict=True):
            if isinstance(member, Sample):
                samples[i] = member
        return samples

    def _list_references(self, rows: Sequence[EncodedRow[T]]) -> list[_ListedRow[T] | RowFailure]:
        """Decode rows with placeholders for media, and list the references of each row."""
        return [try_row(partial(self._list_row_references, field, decode), field) for field, decode in rows]

    def _list_row_references(self, field: str, decode: Callable[[ResolveMedia], T]) -> _ListedRow[T]:
        references: RowReferences = []
        decoded = decode(partial(_record_reference, references))
        count = sum(1 for reference, place in references for _ in _iter_leaves(reference, place))
        if count > self._max_media:
            raise FieldError.at_field(field, f"{count} media are more than the {self._max_media} allowed")
        return _ListedRow(decoded, references)

    async def _resolve_references(self, references: Sequence[RowReferences]) -> MediaByKey:
        """Read all files that the rows refer to."""
        keys = dict.fromkeys(
            key for row in references for reference, field in row for key, _ in _iter_leaves(reference, field)
        )
        media: MediaByKey = {}
        missing = []
        for key in keys:
            modality, kind, value = key
            if kind != "digest":
                continue
            stored = self._store.get(value)
            if stored is None:
                missing.append(value)
            elif stored.modality != modality:
                media[key] = MediaError(f"expected {modality}, and this digest is of {stored.modality}")
            else:
                media[key] = stored
        if missing:
            raise MissingMediaError(f"{len(missing)} media must be uploaded first: PUT /v1/media/...", missing)
        unresolved = [key for key in keys if key not in media]
        opened = await gather_all(self._open_reference(key) for key in unresolved)
        return media | dict(zip(unresolved, opened, strict=True))

    async def _open_reference(self, key: MediaKey) -> Media | Exception:
        """Open a medium; an error is returned, because it costs the rows that refer to this medium only."""
        modality, kind, value = key
        try:
            source: Any = await self._urls.fetch(value) if kind == "url" else value
            return await asyncio.to_thread(_open_media, modality, source)
        except Exception as e:  # noqa: BLE001 - raised again by `_build_media`, for each of these rows
            return e


@dataclass(frozen=True)
class _ListedRow(Generic[T]):
    """Row decoded with placeholders for its media."""

    decoded: T
    references: RowReferences


def _record_reference(references: RowReferences, value: Any, modality: Modality, field: str) -> Media:
    """Record a reference and return a placeholder for its medium."""
    reference = decode_reference(value, modality, field)
    references.append((reference, field))
    return Media(modality, repr(reference).encode(), field)  # Equal references must have equal digests.


def _decode_with_media(
    rows: Sequence[EncodedRow[T]], listed: Sequence[_ListedRow[T] | RowFailure], media: MediaByKey
) -> list[T | RowFailure]:
    decoded: list[T | RowFailure] = []
    for (field, decode), row in zip(rows, listed, strict=True):
        if isinstance(row, RowFailure):
            decoded.append(row)
        elif not row.references:
            decoded.append(row.decoded)
        else:
            decoded.append(try_row(partial(_decode_row_with_media, decode, row.references, media), field))
    return decoded


def _decode_row_with_media(decode: Callable[[ResolveMedia], T], references: RowReferences, media: MediaByKey) -> T:
    # Decoding asks for the media in the same order as in the first pass.
    row_media = iter([_build_media(reference, field, media) for reference, field in references])
    return decode(lambda *_: next(row_media))


def _build_media(reference: MediaReference, field: str, media: MediaByKey) -> Media:
    if isinstance(reference.value, str):
        medium = media[reference.modality, reference.kind, reference.value]
        if isinstance(medium, Media):
            return medium
        if isinstance(medium, MediaFetchError):
            raise MediaFetchError(f"{field}: {medium}") from medium
        if not is_input_error(medium):
            raise medium
        raise FieldError.at_field(field, str(medium) or type(medium).__name__) from medium
    frames = [_build_media(frame, f"{field}.frames[{i}]", media) for i, frame in enumerate(reference.value)]
    try:
        return _compute_digest(make_media(reference.modality, frames, fps=reference.fps))
    except MediaError as e:
        raise FieldError.at_field(field, e) from e


def _iter_leaves(reference: MediaReference, field: str) -> Iterator[tuple[MediaKey, str]]:
    """Iterate over the single files of a reference, each with its field in the request."""
    if isinstance(reference.value, str):
        yield (reference.modality, reference.kind, reference.value), field
    else:
        for i, frame in enumerate(reference.value):
            yield from _iter_leaves(frame, f"{field}.frames[{i}]")


def _open_media(modality: Modality, source: str | bytes) -> Media:
    """Open a data URI, a SMILES string, or the bytes of a file. `source` is never a path, see `decode_reference`."""
    return _compute_digest(make_media(modality, source))


def _compute_digest(media: Media) -> Media:
    """Compute the cached digest in this worker thread; later access would block the event loop."""
    _ = media.digest
    return media
