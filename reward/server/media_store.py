"""Store of uploaded media by content hash: uploaded once, referenced by any number of requests."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from flex_judge.judges.errors import MediaError, RequestTooLargeError
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality

MIB = 1 << 20


class MediaStore:
    """LRU store of media with a size limit. Thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.bytes = 0
        """Size of all stored media."""
        self.uploads = self.hits = self.misses = self.evicted = 0
        """Number of media stored, found, not found, and evicted."""
        self._media: OrderedDict[str, Media] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._media)

    def put(self, modality: Modality, digest: str, data: bytes) -> Media:
        """Store a medium after checking its digest and that it can be opened.

        Raises:
            MediaError: the digest is another one, or the data is invalid.
            RequestTooLargeError: the data is larger than the whole store.
        """
        if len(data) > self.max_bytes:
            size, limit = len(data) / MIB, self.max_bytes / MIB
            raise RequestTooLargeError(f"{modality}: {size:.1f} MiB are more than the store's {limit:.1f} MiB")
        media = Media(modality, data, f"{modality} {digest[:12]}")
        if media.digest != digest:
            raise MediaError(f"{modality}: its digest is {media.digest}, not {digest[:80]}; see Media.digest")
        with self._lock:
            if digest in self._media:
                self._media.move_to_end(digest)
                return self._media[digest]
        # Opened outside of the lock because it is slow; concurrent uploads of the same file may open it twice.
        media = replace(make_media(modality, data), name=media.name)
        with self._lock:
            if digest not in self._media:
                self._media[digest] = media
                self.bytes += len(data)
                self.uploads += 1
            self._media.move_to_end(digest)
            while self.bytes > self.max_bytes:
                _, oldest = self._media.popitem(last=False)
                self.bytes -= len(oldest.data)
                self.evicted += 1
        return media

    def get(self, digest: str) -> Media | None:
        """Get a stored medium; None if it is missing."""
        with self._lock:
            media = self._media.get(digest)
            if media is None:
                self.misses += 1
                return None
            self.hits += 1
            self._media.move_to_end(digest)
            return media
