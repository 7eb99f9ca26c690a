"""Commands as real processes that are sent signals, with every kind of standard output and error behind them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
from processes import PROGRAM, wait_for_end

START_S = 150.0
STOP_S = 90.0
NOISE = ("Traceback", "raylet", "infinite retries", "Exception ignored", "terminate called", "Fatal Python")
PIPES = ("read", "dead", "full", "closed")
"""A pipe that is read, a pipe without a reader, a full disk, and a closed file descriptor."""


class StoppableCommand:
    """Running command whose standard error is of a kind of PIPES; its output is the text of both streams."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        pipe: str,
        ignored: Sequence[signal.Signals],
        environment: dict[str, str],
    ) -> None:
        self._err, self._out = folder / "stderr.txt", folder / "stdout.txt"
        with _open_pipe(pipe, self._err) as err, _open_pipe(pipe, self._out) as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=err,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=partial(_prepare_process, pipe == "closed", ignored),
            )
        self.family: list[psutil.Process] = []

    @property
    def err(self) -> str:
        """Standard error so far; empty unless it is read."""
        return self._err.read_text() if self._err.exists() else ""

    @property
    def out(self) -> str:
        """Standard output so far; empty unless it is read."""
        return self._out.read_text() if self._out.exists() else ""

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Wait for a condition; fails if the command ends before."""
        end = time.monotonic() + START_S
        while not is_ready():
            assert self.process.poll() is None, (self.process.returncode, self.err[-2000:])
            assert time.monotonic() < end, self.err[-2000:]
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process group, as a terminal does."""
        self.family = psutil.Process(self.process.pid).children(recursive=True)
        os.killpg(self.process.pid, number)

    def wait(self) -> int:
        """Wait for the end, check that nothing is left over and nothing leaked into the output; return the status."""
        status = self.process.wait(STOP_S)
        assert wait_for_end(*self.family), [process for process in self.family if process.is_running()]
        for noise in NOISE:
            assert noise not in self.err + self.out
        return status


@contextmanager
def start_command(
    command: Sequence[str],
    folder: Path,
    pipe: str = "read",
    ignored: Sequence[signal.Signals] = (),
    **environment: str,
) -> Iterator[StoppableCommand]:
    """Start `flex-judge` with these arguments, and kill what is left of it at the end of the block.

    Signals in `ignored` are ignored from the start, as under nohup; those that this process ignores are not.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = StoppableCommand([*PROGRAM, *command], folder, pipe, ignored, environment)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            for process in psutil.Process(running.process.pid).children(recursive=True):
                process.kill()
            running.process.kill()
            running.process.wait()


def _prepare_process(closes_streams: bool, ignored: Sequence[signal.Signals]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    if closes_streams:
        os.close(1)
        os.close(2)


@contextmanager
def _open_pipe(pipe: str, file: Path) -> Iterator[int | None]:
    """Open the writing end of a kind of pipe; a pipe that is read is a file here, so that nothing can block."""
    if pipe == "closed":
        yield None
        return
    if pipe == "dead":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full" if pipe == "full" else file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        yield writing
    finally:
        os.close(writing)
