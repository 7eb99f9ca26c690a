"""Resolve media references of requests: uploaded files, data inside the request, and URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import MediaError, RequestTooLargeError
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.server.decoding import MediaReference, ResolveMedia, decode_reference
from flex_judge.reward.server.errors import FieldError, MediaFetchError, MissingMediaError
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher

T = TypeVar("T")
EncodedRow = tuple[str, Callable[[ResolveMedia], T]]
"""Field of a row in its request, and the function that decodes the row with its media."""
RowReferences = list[tuple[MediaReference, str]]
"""Media references of a row in decoding order, each with its field in the request."""
MediaKey = tuple[Modality, str, str]
"""(modality, kind, value) of a reference to a single file."""
MediaByKey = dict[MediaKey, Media]


class MediaDecoder:
    """Decoder of request rows that reads their media without blocking the event loop.

    Rows are decoded twice: first with placeholders, to list the references of the whole request, then with the media.
    So all missing uploads are reported together, and equal references are read once.
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

    async def decode_rows(self, rows: Sequence[EncodedRow[T]]) -> list[T]:
        """Decode rows with their media.

        Raises:
            FieldError: a row is invalid, or one of its media cannot be read.
            MissingMediaError: media were not uploaded, or were evicted; the error lists all of them.
            RequestTooLargeError: a row has too many media.
            MediaFetchError: a media host does not respond.
        """
        decoded, references = await asyncio.to_thread(self._list_references, rows)
        if not any(references):
            return decoded
        media = await self._resolve_references(references)
        return await asyncio.to_thread(_decode_with_media, rows, references, media)

    def _list_references(self, rows: Sequence[EncodedRow[T]]) -> tuple[list[T], list[RowReferences]]:
        """Decode rows with placeholders for media, and list the references of each row."""
        decoded, references = [], []
        for field, decode in rows:
            row_references: RowReferences = []
            decoded.append(decode(partial(_record_reference, row_references)))
            count = sum(1 for reference, place in row_references for _ in _iter_leaves(reference, place))
            if count > self._max_media:
                raise RequestTooLargeError(f"{field}: {count} media are more than the {self._max_media} allowed")
            references.append(row_references)
        return decoded, references

    async def _resolve_references(self, references: Sequence[RowReferences]) -> MediaByKey:
        """Read all files that the rows refer to."""
        fields: dict[MediaKey, str] = {}
        for row in references:
            for reference, field in row:
                for key, leaf_field in _iter_leaves(reference, field):
                    fields.setdefault(key, leaf_field)
        media: MediaByKey = {}
        missing = []
        for key, field in fields.items():
            modality, kind, value = key
            if kind != "digest":
                continue
            stored = self._store.get(value)
            if stored is None:
                missing.append(value)
            elif stored.modality != modality:
                raise FieldError.at_field(field, f"expected {modality}, and this digest is of {stored.modality}")
            else:
                media[key] = stored
        if missing:
            raise MissingMediaError(f"{len(missing)} media must be uploaded first: PUT /v1/media/...", missing)
        unresolved = [key for key in fields if key not in media]
        opened = await gather_all(self._open_reference(key, fields[key]) for key in unresolved)
        return media | dict(zip(unresolved, opened, strict=True))

    async def _open_reference(self, key: MediaKey, field: str) -> Media:
        modality, kind, value = key
        try:
            source: Any = await self._urls.fetch(value) if kind == "url" else value
            return await asyncio.to_thread(_open_media, modality, source)
        except MediaError as e:
            raise FieldError.at_field(field, e) from e
        except MediaFetchError as e:
            raise MediaFetchError(f"{field}: {e}") from e


def _record_reference(references: RowReferences, value: Any, modality: Modality, field: str) -> Media:
    """Record a reference and return a placeholder for its medium."""
    reference = decode_reference(value, modality, field)
    references.append((reference, field))
    return Media(modality, repr(reference).encode(), field)  # Equal references must have equal digests.


def _decode_with_media(
    rows: Sequence[EncodedRow[T]], references: Sequence[RowReferences], media: MediaByKey
) -> list[T]:
    decoded = []
    for (_, decode), row_references in zip(rows, references, strict=True):
        # Decoding asks for the media in the same order as in the first pass.
        row_media = iter([_build_media(reference, media) for reference, _ in row_references])
        decoded.append(decode(lambda *_, row_media=row_media: next(row_media)))
    return decoded


def _build_media(reference: MediaReference, media: MediaByKey) -> Media:
    if isinstance(reference.value, str):
        return media[reference.modality, reference.kind, reference.value]
    frames = [_build_media(frame, media) for frame in reference.value]
    return _compute_digest(make_media(reference.modality, frames, fps=reference.fps))


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
