"""Guarded processes end with their owner."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from processes import is_alive, wait_for_end

from flex_judge.judges.engines.vllm.process_guard import ProcessGuard

PARENT = "import subprocess, sys, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"
OWNER = f"""
import subprocess, sys, time
from flex_judge.judges.engines.vllm.process_guard import ProcessGuard
root = subprocess.Popen([sys.executable, "-c", {PARENT!r}], stdout=subprocess.PIPE, text=True)
child = root.stdout.readline().strip()
guard = ProcessGuard([root.pid])
print(root.pid, child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def parent() -> Iterator[tuple[psutil.Process, psutil.Process]]:
    """Start a process with a child; yield both."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as root:
        assert root.stdout is not None
        child = psutil.Process(int(root.stdout.readline()))
        yield psutil.Process(root.pid), child
        root.kill()
        if child.is_running():
            child.kill()


def test_killing_the_owner_ends_guarded_processes() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        _, child = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
        owned = {child, *psutil.Process(owner.pid).children()}
        assert len(owned) == 3  # including the watcher
        assert all(map(is_alive, owned))
        owner.kill()
    assert wait_for_end(*owned)


def test_close_ends_remaining_descendants(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    root.kill()
    assert wait_for_end(root)
    assert is_alive(child)
    guard.close()
    assert wait_for_end(child)
    guard.close()


def test_kill_ends_a_stopped_process(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    root.suspend()
    guard.kill()
    assert wait_for_end(root, child)
    guard.close()


def test_close_after_all_processes_ended_does_nothing(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    child.kill()
    root.kill()
    assert wait_for_end(root, child)
    guard.kill()
    guard.close()
