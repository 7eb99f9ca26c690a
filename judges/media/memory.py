"""Memory for decoded media: a small file can hold a very large picture, and many may be decoded at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from flex_judge.judges.errors import MediaError

MIB = 1 << 20
MAX_DECODING_BYTES = 1024 * MIB
"""Maximum size of all images and video frames that a process decodes at the same time, before they are scaled down."""
MAX_PREPARED_BYTES = 1024 * MIB
"""Maximum size of all media of one prompt after scaling."""
VIDEO_BYTES_PER_PIXEL = 40
"""Memory of a video decoder per pixel of a frame: about 20 frames of 1.5 bytes for threads and references, and one
frame as an image, twice if it is rotated."""


class DecodingBudget:
    """Memory budget of a process. Thread-safe; work that does not fit waits, and the largest work runs alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._turn = threading.Lock()
        self._freed = threading.Condition()

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Reserve memory until the block ends; waits until it is free. Do not nest."""
        with self._turn, self._freed:  # the turn keeps smaller work from overtaking larger work forever
            while self._bytes and self._bytes + size > self._max_bytes:
                self._freed.wait()
            self._bytes += size
        try:
            yield
        finally:
            with self._freed:
                self._bytes -= size
                self._freed.notify_all()


DECODING = DecodingBudget(MAX_DECODING_BYTES)
"""Budget of this process."""


def reserve_video_decoder(width: int, height: int, frames_bytes: int = 0) -> AbstractContextManager[None]:
    """Reserve the memory of a video decoder until the block ends, see `DecodingBudget.reserve`.

    Args:
        width: width of the frames.
        height: height of the frames.
        frames_bytes: size of the scaled frames. They are in memory twice for a moment, when they are joined.
    """
    return DECODING.reserve(width * height * VIDEO_BYTES_PER_PIXEL + 2 * frames_bytes)


def measure_video(count: int, width: int, height: int, name: str) -> int:
    """Return the size in bytes of the scaled frames of a video.

    Args:
        count: number of sampled frames.
        width: their width after scaling.
        height: their height after scaling.
        name: name of the video for error messages.

    Raises:
        MediaError: they take too much memory.
    """
    size = count * width * height * 3
    if size > MAX_PREPARED_BYTES:
        raise MediaError(
            f"{name}: its sampled frames take {size / MIB:.0f} MiB of memory, more than the "
            f"{MAX_PREPARED_BYTES // MIB} MiB allowed for one comparison; lower video_max_frames, video_fps or "
            "video_max_pixels"
        )
    return size


def check_prepared_size(size: int, count: int) -> None:
    """Raise MediaError if the scaled media of one prompt take too much memory.

    Args:
        size: their size so far in bytes.
        count: number of media so far.
    """
    if size > MAX_PREPARED_BYTES:
        raise MediaError(
            f"the first {count} media take {size / MIB:.0f} MiB of memory, more than the {MAX_PREPARED_BYTES // MIB} "
            "MiB allowed for one comparison; scale them down, or send fewer"
        )
