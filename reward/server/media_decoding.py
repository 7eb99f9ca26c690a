"""From references on the wire to media: what was uploaded, what comes within a request, and what a URL names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.errors import MediaError, RequestTooLargeError
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.server.decoding import MediaReference, Take, decode_reference
from flex_judge.reward.server.errors import FieldError, MediaFetchError, MissingMediaError
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher

T = TypeVar("T")
Row = tuple[str, Callable[[Take], T]]
"""Where a row stands in its request, and what decodes it when it is given its media."""
Mentioned = list[tuple[MediaReference, str]]
"""The references in a row, in the order in which it asks for them, each with where it stands."""
Found = dict[tuple[Modality, str, str], Media]
"""(modality, kind, value) -> medium: what stands in a request more than once is read once."""


class MediaDecoder:
    """Decodes rows of requests, and reads the media that they refer to without holding up the event loop."""

    def __init__(self, store: MediaStore, urls: UrlFetcher, most: int) -> None:
        """Args:
        store: what was uploaded.
        urls: how URLs are read.
        most: media in one row; each frame of a video counts.
        """
        self._store = store
        self._urls = urls
        self._most = most

    async def decode_rows(self, rows: Sequence[Row[T]]) -> list[T]:
        """The rows, decoded, with their media.

        Raises:
            FieldError: something in a row is wrong, or one of its media cannot be read.
            MissingMediaError: media that were not uploaded, or are gone; all of them are named.
            RequestTooLargeError: too many media in one row.
            FetchError: a host of media does not answer.
        """
        decoded, references = await asyncio.to_thread(self._list_references, rows)
        if not any(references):
            return decoded
        found = await self._resolve_references(references)
        return await asyncio.to_thread(_decode_with_media, rows, references, found)

    def _list_references(self, rows: Sequence[Row[T]]) -> tuple[list[T], list[Mentioned]]:
        """The rows with nothing in the place of media, and what is to be there."""
        decoded, references = [], []
        for field, decode in rows:
            here: Mentioned = []
            decoded.append(decode(partial(_record_reference, here)))
            count = sum(1 for one, where in here for _ in _iter_leaves(one, where))
            if count > self._most:
                raise RequestTooLargeError(f"{field}: {count} media are more than the {self._most} allowed")
            references.append(here)
        return decoded, references

    async def _resolve_references(self, references: Sequence[Mentioned]) -> Found:
        """Every medium that is referred to."""
        places: dict[tuple[Modality, str, str], str] = {}
        for row in references:
            for one in row:
                for key, where in _iter_leaves(*one):
                    places.setdefault(key, where)
        found: Found = {}
        missing = []
        for key in places:
            modality, kind, value = key
            if kind == "digest":
                stored = self._store.get(value)
                if stored is None:
                    missing.append(value)
                elif stored.modality != modality:
                    raise FieldError.at_field(
                        places[key], f"expected {modality}, and this digest is of {stored.modality}"
                    )
                else:
                    found[key] = stored
        if missing:
            raise MissingMediaError(f"{len(missing)} media must be uploaded first: PUT /v1/media/...", missing)
        left = [(key, where) for key, where in places.items() if key not in found]
        read = await gather_all(self._open_reference(key, where) for key, where in left)
        for (key, _), medium_ in zip(left, read, strict=True):
            found[key] = medium_
        return found

    async def _open_reference(self, key: tuple[Modality, str, str], where: str) -> Media:
        modality, kind, value = key
        try:
            source: Any = await self._urls.fetch(value) if kind == "url" else value
            return await asyncio.to_thread(_open_media, modality, source)
        except MediaError as e:
            raise FieldError.at_field(where, e) from e
        except MediaFetchError as e:
            raise MediaFetchError(f"{where}: {e}") from e


def _record_reference(here: Mentioned, value: Any, modality: Modality, field: str) -> Media:
    """Stands in for a medium until all that a request needs are known."""
    here.append((decode_reference(value, modality, field), field))
    return Media(modality, b"", field)


def _decode_with_media(rows: Sequence[Row[T]], references: Sequence[Mentioned], found: Found) -> list[T]:
    decoded = []
    for (_, decode), here in zip(rows, references, strict=True):
        media = iter([_build_media(one, found) for one, _ in here])
        decoded.append(decode(lambda *_, media=media: next(media)))  # asked for in the same order as before
    return decoded


def _build_media(one: MediaReference, found: Found) -> Media:
    if isinstance(one.value, str):
        return found[one.modality, one.kind, one.value]
    made = make_media(one.modality, [_build_media(frame, found) for frame in one.value], fps=one.fps)
    _ = made.digest  # is kept; else the event loop would compute it
    return made


def _iter_leaves(one: MediaReference, where: str) -> Iterator[tuple[tuple[Modality, str, str], str]]:
    """The references in a reference that stand for one file each, with where they stand."""
    if isinstance(one.value, str):
        yield (one.modality, one.kind, one.value), where
    else:
        for i, frame in enumerate(one.value):
            yield from _iter_leaves(frame, f"{where}.frames[{i}]")


def _open_media(modality: Modality, source: str | bytes) -> Media:
    """A data URI, a SMILES text or the bytes of a file as a medium. `source` is never a path: see `wire.reference`."""
    made = make_media(modality, source)
    _ = made.digest
    return made
