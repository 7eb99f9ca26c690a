"""State behind the stop signals of a process: what has arrived, what was said, and how the process ends at once."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flex_judge.judges.errors import to_one_line

if TYPE_CHECKING:
    from rich.console import Console

SAME_STOP_S = 0.5
"""Signals this soon after the first belong to it: a terminal that closes and timeout(1) send two or three."""
STATUS = 130
"""Exit status of a stopped command, whatever the signal was."""
STARTED_BY = "FLEX_JUDGE_STARTED_BY"
COMMAND, LAUNCHER = "command", "launcher"
"""Variable in the environment of a process that another process of ours stops, and its values: the other process is a
command, or the process that launched the ranks of a training. It has acknowledged the signal already."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RESUME = "finished work is saved, run the same command again to resume"
PRINT_LIMIT_S = 0.5
"""How long the last message of a process waits for a terminal or pipe that does not take it."""
OWN_WATCHERS = ("flex_judge.reward.serving.cleanup", "flex_judge.judges.engines.vllm.process_guard")
"""Modules of processes that clean up after this one, and end by themselves."""


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt."""
    raise KeyboardInterrupt


class StopState:
    """Handling of the stop signals of this process."""

    def __init__(self, program: str) -> None:
        self.program = program
        self.is_requested = threading.Event()
        self.is_acknowledged = threading.Event()
        self.plan = RESUME
        """What the first signal makes the command do, as the acknowledgement says it."""
        self.act: Callable[[], None] = raise_interrupt
        """Called in the main thread at the first signal."""
        self.console: Console | None = None
        # Kept, because commands redirect standard error to a log.
        self._terminal = os.dup(2)
        self._has_acted = False
        self._first_s = math.inf

    def handle_signal(self, _number: int, _frame: object) -> None:
        """Act at the first signal, in the main thread, which may handle it late."""
        self.is_requested.set()
        if not self._has_acted:
            self._has_acted = True
            self.act()

    def watch_signals(self, pipe: int) -> None:
        """Acknowledge signals as they arrive, whatever the main thread does; runs in a thread of its own."""
        while (number := os.read(pipe, 1)) not in (b"", b"\0"):
            if signal.Signals(number[0]) not in SIGNALS:
                continue
            if self._first_s == math.inf:
                self._first_s = time.monotonic()
                self.is_requested.set()
                # In yet another thread: a terminal that takes no output must not delay the second signal.
                threading.Thread(target=self._acknowledge_stop, args=(number[0],), daemon=True).start()
            elif time.monotonic() - self._first_s > SAME_STOP_S:
                self._end_process()

    def _acknowledge_stop(self, number: int) -> None:
        if STARTED_BY not in os.environ:
            self.print_line(f"stopping ({signal.Signals(number).name}): {self.plan}; a second signal ends at once")
        self.is_acknowledged.set()

    def print_line(self, text: str) -> None:
        """Print a line on the terminal, above a progress display if there is one."""
        line = f"{self.program}: {to_one_line(text)}"
        if self.console is not None and self.console.is_terminal:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self.write_line(line)

    def write_line(self, line: str) -> None:
        """Write a line to standard error; give up if it fails or nobody takes it."""
        with contextlib.suppress(OSError, ValueError):
            if select.select([], [self._terminal], [], PRINT_LIMIT_S)[1]:
                os.write(self._terminal, f"{line}\n".encode(errors="backslashreplace"))

    def _end_process(self) -> None:
        """End this process and its child processes at once."""
        show_cursor = "\r\033[K\033[?25h" if os.isatty(self._terminal) else ""  # a progress display has hidden it
        if STARTED_BY not in os.environ:
            self.write_line(f"{show_cursor}{self.program}: ended at once")
        kill_children()
        os._exit(STATUS)

    def close(self) -> None:
        """Close the copy of standard error."""
        os.close(self._terminal)


def kill_children() -> None:
    """Kill all descendants of this process at once, except those that clean up after it."""
    try:
        import psutil
    except ModuleNotFoundError:  # without the extra `serve`, no command starts processes
        return
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError):
            if not set(OWN_WATCHERS) & set(child.cmdline()):
                child.kill()
