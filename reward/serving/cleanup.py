"""Ends what a local Ray leaves behind, however its starter ends: `python -m flex_judge.reward.serving.cleanup MARK`.

Most of Ray's processes follow their driver within seconds; its agents and what engines start may not. This small
process waits until the pipe on its standard input closes, which happens when the driver is gone, killed or not.
"""

from __future__ import annotations

import select
import sys
import time

import psutil

from flex_judge.reward.serving import CLUSTER_VARIABLE

POLL_S = 1.0
GRACE_S = 3.0
"""How long processes may take to end by themselves."""
KILL_WINDOW_S = 5.0
"""How long is looked for more: what is killed may just have started something."""


class ProcessFamily:
    """The processes that were started with a mark in their environment, and what these started.

    Some of Ray's overwrite their environment when they give themselves a name, and once their parent is gone nothing
    tells where they belong. So `look` must be called while the family is whole.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._members: set[psutil.Process] = set()
        self._strangers: set[psutil.Process] = {psutil.Process()}

    def find_members(self) -> None:
        """Find members that are new since last time."""
        processes = set(psutil.process_iter())  # the same objects for the same processes as last time
        self._strangers &= processes
        new = processes - self._members - self._strangers
        self._members |= {process for process in new if self._is_marked(process)}
        for process in new - self._members:
            try:
                family = self._members & set(process.parents())
            except (psutil.Error, OSError):  # it ended meanwhile
                continue
            (self._members if family else self._strangers).add(process)

    def list_alive(self) -> list[psutil.Process]:
        """The members that have not ended. One that nobody has waited for, a zombie, has."""
        return [p for p in self._members if p.is_running() and _get_status(p) != psutil.STATUS_ZOMBIE]

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            return process not in self._strangers and process.environ().get(CLUSTER_VARIABLE) == self._mark
        except (psutil.Error, OSError):  # another user's
            return False


def _get_status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def main(mark: str) -> None:
    family = ProcessFamily(mark)
    while not select.select([sys.stdin], [], [], POLL_S)[0]:  # nothing is ever written, so what comes is the end
        family.find_members()
    psutil.wait_procs(family.list_alive(), timeout=GRACE_S)
    end = time.monotonic() + KILL_WINDOW_S
    while time.monotonic() < end:
        family.find_members()
        left = family.list_alive()
        if not left:
            return
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1.0)


if __name__ == "__main__":
    main(sys.argv[1])
