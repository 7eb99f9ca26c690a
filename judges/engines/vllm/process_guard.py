"""The processes of an engine end with it, and with the process that owns it, however that one ends.

vllm ends its processes when it is asked to. If the process that owns an engine is killed it is not asked, and they stay
and hold their GPU. So a small process waits beside the engine until the pipe on its standard input closes, which
happens when the owner is gone: `python -m flex_judge.judges.engines.vllm.process_guard PID:STARTED ...`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

import psutil  # type: ignore[import-untyped]


class ProcessGuard:
    """Watches over processes and what they start."""

    def __init__(self, roots: Iterable[int]) -> None:
        """Args:
        roots: ids of processes that this one started. What they have started so far is noted, because it cannot
            be found any more when they are dead.
        """
        self._processes = _collect_descendants([psutil.Process(root) for root in roots])
        # Process ids are used again; with the time of its start a process is told from its successor.
        names = [f"{p.pid}:{p.create_time()!r}" for p in self._processes]
        command = [sys.executable, "-P", "-m", __name__, *names]
        # In a session of its own, so that what ends the owner's process group leaves it to its work.
        self._watcher = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    def kill(self) -> None:
        """End all processes at once, without asking them."""
        _kill_processes(self._processes)

    def close(self) -> None:
        """End what is left of the processes, and watch no longer. Idempotent."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait()


def _collect_descendants(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = list(processes)
    for process in processes:
        try:
            found += process.children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return list(dict.fromkeys(found))


def _kill_processes(processes: list[psutil.Process]) -> None:
    for process in _collect_descendants(processes):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _find_process(name: str) -> psutil.Process | None:
    """The process called `PID:STARTED`, if it is still there."""
    pid, _, started = name.partition(":")
    try:
        process = psutil.Process(int(pid))
    except psutil.NoSuchProcess:
        return None
    return process if process.create_time() == float(started) else None


def main(names: list[str]) -> None:
    processes = [process for process in map(_find_process, names) if process is not None]
    while os.read(sys.stdin.fileno(), 1):  # until it closes; nothing is ever written
        pass
    _kill_processes(processes)


if __name__ == "__main__":
    main(sys.argv[1:])
