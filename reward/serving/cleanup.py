"""Kill processes that a local Ray leaves behind: `python -m flex_judge.reward.serving.cleanup MARK`.

Most of Ray's processes end within seconds after their driver; its agents, and processes started by engines, may not.
This small process waits until the pipe on its standard input closes, which happens in any case when the driver ends,
even if it is killed.
"""

from __future__ import annotations

import select
import sys
import time

import psutil

from flex_judge.reward.serving import CLUSTER_VARIABLE

POLL_S = 1.0
GRACE_S = 3.0
"""Seconds that processes have to end by themselves."""
KILL_WINDOW_S = 5.0
"""Seconds of repeated search, as a killed process may have started another one just before."""


class ProcessFamily:
    """Processes with a mark in their environment, and their descendants.

    Some of Ray's processes overwrite their environment when they set their title, and cannot be recognized after their
    parent has ended. So `find_members` must be called regularly while all processes run.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._members: set[psutil.Process] = set()
        self._strangers: set[psutil.Process] = {psutil.Process()}

    def find_members(self) -> None:
        """Find members that started since the last call."""
        processes = set(psutil.process_iter())  # caches the objects, so they are the same as in the last call
        self._strangers &= processes
        new = processes - self._members - self._strangers
        self._members |= {process for process in new if self._is_marked(process)}
        for process in new - self._members:
            try:
                member_parents = self._members & set(process.parents())
            except (psutil.Error, OSError):  # the process has ended
                continue
            (self._members if member_parents else self._strangers).add(process)

    def list_alive(self) -> list[psutil.Process]:
        """List the running members; zombies do not count."""
        return [p for p in self._members if p.is_running() and _get_status(p) != psutil.STATUS_ZOMBIE]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process not in self._strangers and process.environ().get(CLUSTER_VARIABLE) == self._mark
        except (psutil.Error, OSError):  # a process of another user
            return False


def _get_status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def main(mark: str) -> None:
    """Wait for the end of the driver, then kill the processes with this mark."""
    family = ProcessFamily(mark)
    while not select.select([sys.stdin], [], [], POLL_S)[0]:  # readable only at its end: nothing is written to it
        family.find_members()
    psutil.wait_procs(family.list_alive(), timeout=GRACE_S)
    end = time.monotonic() + KILL_WINDOW_S
    while time.monotonic() < end:
        family.find_members()
        survivors = family.list_alive()
        if not survivors:
            return
        for process in survivors:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(survivors, timeout=1.0)


if __name__ == "__main__":
    main(sys.argv[1])
