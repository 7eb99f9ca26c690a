"""Processes end with the one that owns them, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from processes import alive, ended

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
    """A process, and one that it started."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as root:
        assert root.stdout is not None
        child = psutil.Process(int(root.stdout.readline()))
        yield psutil.Process(root.pid), child
        root.kill()
        if child.is_running():
            child.kill()


def test_what_a_process_owns_ends_when_it_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        _, child = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
        owned = {child, *psutil.Process(owner.pid).children()}
        assert len(owned) == 3  # with the guard's own
        assert all(map(alive, owned))
        owner.kill()
    assert ended(*owned)


def test_closing_ends_what_a_process_left_behind(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    root.kill()
    assert ended(root)
    assert alive(child)
    guard.close()
    assert ended(child)
    guard.close()


def test_killing_ends_a_process_that_was_stopped(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    root.suspend()
    guard.kill()
    assert ended(root, child)
    guard.close()


def test_closing_when_all_has_ended_is_nothing_to_speak_of(parent: tuple[psutil.Process, psutil.Process]) -> None:
    root, child = parent
    guard = ProcessGuard([root.pid])
    child.kill()
    root.kill()
    assert ended(root, child)
    guard.kill()
    guard.close()
