"""What a person sees on a terminal: progress on standard error, and nothing of what libraries print in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextmanager
def redirect_libraries(log: Path) -> Iterator[Console]:
    """Send whatever libraries write to the terminal, from any language, to the file `log`.

    Yields:
        A console on the real standard error.
    """
    from rich.console import Console

    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    terminal = os.fdopen(os.dup(saved[1]), "w", encoding="utf-8")
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        yield Console(file=terminal)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal.close()
        for descriptor, kept in enumerate(saved, 1):
            os.dup2(kept, descriptor)
            os.close(kept)
        os.close(target)


@contextmanager
def reserve_stdout() -> Iterator[TextIO]:
    """Send what libraries print to standard error.

    Yields:
        The real standard output, for what a program reads.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    out = os.fdopen(os.dup(kept), "w", encoding="utf-8")
    try:
        os.dup2(2, 1)
        yield out
    finally:
        out.close()
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def build_progress(console: Console) -> Progress:
    """Progress bars with rates and time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        """How many a minute, of late, and how long the rest will take so."""

        def __init__(self) -> None:
            super().__init__("")
            self._left = TimeRemainingColumn(compact=True)

        def render(self, task: Task) -> Text:
            if task.finished or not task.speed or not task.total or task.total < 2:
                return Text("")
            return Text(f"{60 * task.speed:.0f}/min, ") + self._left.render(task) + Text(" left")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        Rate(),
        console=console,
        speed_estimate_period=300,
    )
