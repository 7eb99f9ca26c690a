"""Log file of a service on Ray: its place, and a copy of its lines on standard error of `serve`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from flex_judge.reward.server.logs import LogConfig, configure_logging

POLL_S = 0.2
MAX_COPIED_BYTES = 64 << 20
"""Size at which a copied log file is moved aside, so that it cannot fill the disk."""
CHUNK_BYTES = 1 << 20


def find_log_folder() -> Path | None:
    """Return the folder of Ray's logs on this machine; None if this process is not connected to Ray."""
    import ray
    from ray._private import worker  # Ray has no public function for the folder of a session

    node = worker._global_node if ray.is_initialized() else None
    return None if node is None else Path(node.get_logs_dir_path())


def find_log_file(config: LogConfig, name: str) -> str | None:
    """Return the file of a service's log on this machine; None for standard error.

    Args:
        config: the settings.
        name: name of the service.
    """
    if config.log_file is not None:
        return config.log_file
    folder = find_log_folder()
    return None if folder is None else str(folder / f"{name}.log")


def configure_actor_logging(config: LogConfig, process: str, name: str) -> None:
    """Send the log of an actor to the service's file.

    Args:
        config: the settings.
        process: name of the process in each line.
        name: name of the service.
    """
    configure_logging(config, process, find_log_file(config, name))


@contextmanager
def copy_log(path: str, stream: TextIO | None = None) -> Iterator[None]:
    """Copy the lines that are appended to a file to a stream until the block ends.

    A stream that fails, such as a pipe without a reader, ends the copy and nothing else.

    Args:
        path: the file; it may not exist yet.
        stream: the stream; standard error by default.
    """
    position = os.path.getsize(path) if os.path.exists(path) else 0
    ended = threading.Event()
    thread = threading.Thread(target=_copy_lines, args=(path, position, stream or sys.stderr, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)  # a stream that blocks must not keep the command from ending


def _copy_lines(path: str, position: int, stream: TextIO, ended: threading.Event) -> None:
    while True:
        is_last = ended.is_set()
        try:
            position = _copy_from(path, position, stream)
        except FileNotFoundError:
            position = 0
        except (OSError, ValueError):  # ValueError: the stream is closed
            return
        if is_last:
            return
        ended.wait(POLL_S)


def _copy_from(path: str, position: int, stream: TextIO) -> int:
    """Copy everything behind a position; returns the new position."""
    with open(path, "rb") as file:
        file.seek(position)
        _copy_rest(file, stream)
        position = file.tell()
        if position > MAX_COPIED_BYTES:
            os.replace(path, f"{path}.1")
            _copy_rest(file, stream)  # lines that were written just before
            position = 0
    stream.flush()
    return position


def _copy_rest(file: BinaryIO, stream: TextIO) -> None:
    while chunk := file.read(CHUNK_BYTES):
        stream.write(chunk.decode(errors="replace"))
