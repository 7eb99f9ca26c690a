"""Media that clients have uploaded, by the hash of their content: sent once, referred to many times."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from flex_judge.judges.errors import MediaError, RequestTooLargeError
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Media, Modality

MIB = 1 << 20


class MediaStore:
    """Keeps media up to so many bytes; those that were not used for longest go first. For any number of threads."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        """What it holds."""
        self.uploads = self.hits = self.misses = self.evicted = 0
        """Media put in, found, not found, and dropped for want of room."""
        self._media: OrderedDict[str, Media] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._media)

    def put(self, modality: Modality, digest: str, data: bytes) -> Media:
        """Keep a medium, if its content is what `digest` says and can be read.

        Raises:
            MediaError: it has another digest, or is no such medium.
            RequestTooLargeError: it is larger than the whole store.
        """
        if len(data) > self.most_bytes:
            size, most = len(data) / MIB, self.most_bytes / MIB
            raise RequestTooLargeError(f"{modality}: {size:.1f} MiB are more than the {most:.1f} MiB kept of all media")
        found = Media(modality, data, f"{modality} {digest[:12]}")
        if found.digest != digest:
            raise MediaError(f"{modality}: its digest is {found.digest}, not {digest[:80]}; see Media.digest")
        with self._lock:
            if digest in self._media:
                self._media.move_to_end(digest)
                return self._media[digest]
        # Opened outside of the lock, as it takes a while; one that arrives twice at once is opened twice.
        found = replace(make_media(modality, data), name=found.name)
        with self._lock:
            if digest not in self._media:
                self._media[digest] = found
                self.bytes += len(data)
                self.uploads += 1
            self._media.move_to_end(digest)
            while self.bytes > self.most_bytes:
                _, oldest = self._media.popitem(last=False)
                self.bytes -= len(oldest.data)
                self.evicted += 1
        return found

    def get(self, digest: str) -> Media | None:
        """A medium that is there."""
        with self._lock:
            found = self._media.get(digest)
            if found is None:
                self.misses += 1
                return None
            self.hits += 1
            self._media.move_to_end(digest)
            return found
