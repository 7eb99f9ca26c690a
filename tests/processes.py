"""Waiting for processes to end."""

from __future__ import annotations

import time

import psutil

PATIENCE_S = 20.0


def alive(process: psutil.Process) -> bool:
    """Whether it runs. One that has ended and that its parent has not asked about yet does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def ended(*processes: psutil.Process, within_s: float = PATIENCE_S) -> bool:
    """Whether all of them end within a time."""
    end = time.monotonic() + within_s
    while any(map(alive, processes)):
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
