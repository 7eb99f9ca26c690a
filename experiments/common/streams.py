"""Output streams that cannot fail: a reader that has gone away or a full disk never ends the work behind them."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TextIO

UNREAD = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.ENXIO)
"""Errors of a stream that nobody reads any more: a pipe without a reader, or a terminal that was closed."""


class _SafeFile(io.RawIOBase):
    """File descriptor for output; after an error, it is pointed at /dev/null."""

    def __init__(self, descriptor: int, closes: bool) -> None:
        super().__init__()
        self._descriptor, self._closes = descriptor, closes
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        try:
            return os.write(self._descriptor, view)
        except BlockingIOError:
            # Another process that shares the descriptor has made it non-blocking.
            select.select([], [self._descriptor], [])
            return 0  # the buffer tries again
        except OSError as e:
            self.error = self.error or e
            _discard_output(self._descriptor)
            return len(view)

    def close(self) -> None:
        if self._closes and not self.closed:
            os.close(self._descriptor)
        super().close()


class SafeStream(io.TextIOWrapper):
    """Text stream to a file descriptor whose writes never raise an error."""

    def __init__(self, descriptor: int, *, closes: bool = False, encoding: str = "utf-8") -> None:
        """Open a stream.

        Args:
            descriptor: file descriptor to write to.
            closes: whether closing the stream closes the descriptor.
            encoding: encoding; characters outside of it are written as escapes.
        """
        self._file = _SafeFile(descriptor, closes)
        buffer = io.BufferedWriter(self._file)
        # Lines of standard error and of terminals appear at once; those of a file or pipe are written in blocks.
        line_buffering = descriptor == 2 or self._file.isatty()
        super().__init__(buffer, encoding=encoding, errors="backslashreplace", line_buffering=line_buffering)

    @property
    def lost_output(self) -> OSError | None:
        """Error that lost output which somebody may still want; None if there was none, or if nobody reads."""
        error = self._file.error
        return None if error is None or error.errno in UNREAD else error


def protect_standard_streams() -> None:
    """Make sure that printing cannot fail in this process, and that the descriptors 0, 1 and 2 are open.

    A file that is opened while one of them is closed would take its number, and with it the output of libraries.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            _discard_output(descriptor)
    sys.stdout = _replace_stream(sys.stdout, 1)
    sys.stderr = _replace_stream(sys.stderr, 2)


def find_lost_output() -> OSError | None:
    """Return the error that lost results on standard output, if any. Flushes standard output first."""
    if not isinstance(sys.stdout, SafeStream):
        return None
    sys.stdout.flush()
    return sys.stdout.lost_output


def _replace_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is not None:
        try:
            stream.flush()
        except OSError:
            _discard_output(descriptor)
    return SafeStream(descriptor, encoding=getattr(stream, "encoding", None) or "utf-8")


def _discard_output(descriptor: int) -> None:
    """Point a descriptor at /dev/null, so that libraries and child processes do not fail at it either."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(descriptor, True)
