"""Process cleanup: end the processes of an engine when its owner ends, in whatever way.

vllm ends its processes on request. If the owner of an engine is killed, nobody makes that request, and they keep
running and hold their GPU. A small watcher process therefore waits until the pipe on its standard input closes, which
happens when the owner ends: `python -m flex_judge.judges.engines.vllm.process_guard PID:STARTED ...`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]


class ProcessGuard:
    """Watcher that kills processes and their descendants when this process ends."""

    def __init__(self, roots: Iterable[int]) -> None:
        """Start the watcher.

        Args:
            roots: ids of child processes. Their descendants are recorded now, because they can no longer be found
                after the roots are dead.
        """
        self._processes = _collect_descendants([psutil.Process(root) for root in roots])
        # Process ids are reused; the start time distinguishes a process from a later one with the same id.
        names = [f"{p.pid}:{p.create_time()!r}" for p in self._processes]
        command = [sys.executable, "-P", "-m", __name__, *names]
        # In its own session, so that a signal to the owner's process group does not end the watcher too.
        self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def kill(self) -> None:
        """Kill all processes at once (SIGKILL)."""
        _kill_processes(self._processes)

    def close(self) -> None:
        """Kill the remaining processes and end the watcher. Idempotent."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()


def _collect_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes and their descendants, without duplicates."""
    collected = list(processes)
    for process in processes:
        try:
            collected += process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return list(dict.fromkeys(collected))


def _kill_processes(processes: list[psutil.Process]) -> None:
    for process in _collect_descendants(processes):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _find_process(name: str) -> psutil.Process | None:
    """Find the running process that `PID:STARTED` names."""
    pid, _, started = name.partition(":")
    try:
        process = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        return None
    return process if process.create_time() == float(started) else None


def main(names: list[str]) -> None:
    """Wait until standard input closes, then kill the named processes."""
    processes = [process for process in map(_find_process, names) if process is not None]
    while os.read(sys.stdin.fileno(), 1):  # nothing is ever written; the read ends when the owner does
        pass
    _kill_processes(processes)


if __name__ == "__main__":
    main(sys.argv[1:])
