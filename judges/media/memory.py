"""Memory for decoded media: a small file can hold a very large picture, and many may be decoded at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from flex_judge.judges.errors import MediaError

MIB = 1 << 20
MAX_DECODING_BYTES = 1024 * MIB
"""Maximum size of all images that a process decodes at the same time, before they are scaled down."""
MAX_PREPARED_BYTES = 1024 * MIB
"""Maximum size of all media of one prompt after scaling."""


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
