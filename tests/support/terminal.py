"""Commands in a pseudo-terminal of a given width, for tests."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Sequence
from pathlib import Path

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run_in_terminal(command: Sequence[str], columns: int, folder: Path) -> tuple[int, list[str]]:
    """Run a command in a folder with a terminal as its standard streams.

    Returns:
        The exit status, and all lines that were drawn, also those that were drawn over, without control sequences.
    """
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
    )
    os.close(terminal)
    output = b""
    while True:
        try:
            chunk = os.read(master, 1 << 16)
        except OSError:  # the terminal is closed
            break
        if not chunk:
            break
        output += chunk
    os.close(master)
    text = _CONTROL.sub("", output.decode(errors="replace"))
    return process.wait(), [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]
