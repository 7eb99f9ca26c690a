"""Ends what a local Ray leaves behind, however the process that started it ends: `python -m reward.reaper MARK`.

Ray's own processes follow their driver within seconds, most of them; its agents and what engines start may not. This
small process waits until the pipe on its standard input closes, which happens when the driver is gone, killed or not.
"""

from __future__ import annotations

import os
import sys
import time

import psutil

VARIABLE = "FLEX_JUDGE_CLUSTER"
"""Set in the environment of everything that a local Ray starts."""
GRACE_S = 3.0
"""How long processes may take to end by themselves."""
SWEEPS_S = 5.0
"""How long is looked for more: what is killed may just have started something."""


def marked(mark: str) -> list[psutil.Process]:
    """The processes that were started with this mark, this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == mark:
                found.append(process)
        except (psutil.Error, OSError):  # it ended meanwhile, or is another user's
            continue
    return found


def main(mark: str) -> None:
    while sys.stdin.buffer.read(1):  # until it closes; nothing is ever written
        pass
    psutil.wait_procs(marked(mark), timeout=GRACE_S)
    end = time.monotonic() + SWEEPS_S
    while left := marked(mark):
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=1.0)
        if time.monotonic() > end:
            return


if __name__ == "__main__":
    main(sys.argv[1])
