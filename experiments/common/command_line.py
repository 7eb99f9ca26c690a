"""The command line of this process, which a run records so that its page can say how to resume it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from contextvars import ContextVar

LAUNCHED_COMMAND = "FLEX_JUDGE_LAUNCHED_COMMAND"
"""Environment variable that tells the ranks of a launcher which command the user typed."""
_USERINFO = re.compile(r"(\w+://)[^/@\s]+@")
_command: ContextVar[str] = ContextVar("command", default="")


def record_command(words: Sequence[str]) -> None:
    """Record the command line, without credentials in URLs. A command that a launcher repeats keeps the user's words.

    Args:
        words: program and arguments.
    """
    # Removed from the environment, so that the children of this process record their own command.
    launched = os.environ.pop(LAUNCHED_COMMAND, "")
    _command.set(launched or format_command(words))


def get_command() -> str:
    """Return the recorded command line; empty if the run was not started from one."""
    return _command.get()


def format_command(words: Sequence[str]) -> str:
    """Format a command line for a shell, without credentials in URLs."""
    return _USERINFO.sub(r"\1", shlex.join(words))
