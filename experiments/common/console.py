"""Terminal output: progress on standard error, without the messages that libraries print."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flex_judge.experiments.common.streams import SafeStream

if TYPE_CHECKING:
    from rich.console import Console

NOTICE_S = 5.0, 15.0
"""Seconds without any output after which the start of a command is mentioned, and then again."""
_has_output = threading.Event()
_terminals = [2]
"""Descriptors of the original standard error, one more for each redirection."""


@contextmanager
def redirect_libraries(log: Path) -> Iterator[Console]:
    """Redirect everything that libraries print to the file `log`.

    The file descriptors themselves are redirected, because C++ libraries and child processes bypass `sys.stdout`.

    Yields:
        A console on the original standard error.
    """
    # Flush first: buffered text would end up in the log instead of on the terminal.
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    terminal = SafeStream(os.dup(saved[1]), closes=True)
    _terminals.append(saved[1])
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield build_console(terminal)
    finally:
        _terminals.pop()
        sys.stdout.flush()
        sys.stderr.flush()
        terminal.close()
        for descriptor, original in enumerate(saved, 1):
            os.dup2(original, descriptor)
            os.close(original)
        os.close(target)


@contextmanager
def reserve_stdout() -> Iterator[TextIO]:
    """Redirect what libraries print on standard output to standard error.

    Yields:
        The original standard output, for machine-readable results.
    """
    sys.stdout.flush()
    original = os.dup(1)
    out = SafeStream(os.dup(original), closes=True)
    try:
        os.dup2(2, 1)
        yield out
    finally:
        out.close()
        sys.stdout.flush()
        os.dup2(original, 1)
        os.close(original)


def get_terminal() -> int:
    """Return the descriptor of the original standard error, also while `redirect_libraries` is active."""
    return _terminals[-1]


def record_output() -> None:
    """Record that this command shows something, see `show_silent_start`."""
    _has_output.set()


@contextmanager
def show_silent_start() -> Iterator[None]:
    """Say that a command is loading its libraries, until it shows something else.

    Importing torch, transformers or TRL takes seconds, and on a busy machine a minute. Of several ranks, the first one
    says so.
    """
    started, ended = time.monotonic(), threading.Event()
    _has_output.clear()

    def watch() -> None:
        wait_s, next_s = NOTICE_S
        while not _has_output.wait(wait_s) and not ended.is_set():
            _write_line(f"loading libraries: {time.monotonic() - started:.0f} s so far")
            wait_s = next_s

    if os.environ.get("RANK", "0") == "0":
        threading.Thread(target=watch, name="silent start", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        _has_output.set()


def print_status(text: str) -> None:
    """Print a line for people on the original standard error; never raises, whoever reads it."""
    record_output()
    _write_line(text)


def _write_line(text: str) -> None:
    sys.stderr.flush()
    with SafeStream(get_terminal()) as terminal:
        terminal.write(f"flex-judge: {text}\n")


def build_console(file: TextIO) -> Console:
    """Build a console for a stream, as wide as the terminal of that stream."""
    from rich.console import Console, ConsoleDimensions

    class StreamConsole(Console):
        """Console that measures its own stream; rich measures the standard streams, which may be redirected."""

        @property  # type: ignore[misc]
        def size(self) -> ConsoleDimensions:
            """Columns and lines of the terminal."""
            try:
                columns, lines = os.get_terminal_size(file.fileno())
            except (OSError, ValueError):
                return super().size
            return ConsoleDimensions(columns, lines) if columns else super().size

    return StreamConsole(file=file)
