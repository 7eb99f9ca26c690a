"""Terminal output: progress on standard error, without the messages that libraries print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from flex_judge.experiments.common.stopping import print_above
from flex_judge.experiments.common.streams import SafeStream

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


@contextmanager
def redirect_libraries(log: Path) -> Iterator[Console]:
    """Redirect everything that libraries print to the file `log`.

    The file descriptors themselves are redirected, because C++ libraries and child processes bypass `sys.stdout`.

    Yields:
        A console on the original standard error.
    """
    from rich.console import Console

    # Flush first: buffered text would end up in the log instead of on the terminal.
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    terminal = SafeStream(os.dup(saved[1]), closes=True)
    try:
        os.dup2(target, 1)
        os.dup2(target, 2)
        console = Console(file=terminal)
        with print_above(console):
            yield console
    finally:
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


def build_progress(console: Console) -> Progress:
    """Build progress bars with rate and remaining time."""
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
        """Column with the recent rate per minute and the remaining time."""

        def __init__(self) -> None:
            super().__init__("")
            self._left = TimeRemainingColumn(compact=True)

        def render(self, task: Task) -> Text:
            """Render the column; empty for tasks without a measurable rate."""
            # A single step has no meaningful rate.
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
        speed_estimate_period=300,  # seconds; judgments finish in bursts, so a short window would jump
    )
