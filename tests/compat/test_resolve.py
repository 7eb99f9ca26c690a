"""The core resolves together with the trainers, and a conflict is one line and an exit status."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([], 0, ["verl==0.9.1: resolved, ", "verifiers==0.4.0: ", "openrlhf==0.11.2: ", "trl==1.16.0: resolved, "]),
        (["httpx==0.20"], 1, ["httpx==0.20: "]),
    ],
)
def test_core_resolves_with_each_trainer(packages: list[str], status: int, said: list[str]) -> None:
    command = [sys.executable, str(ROOT / "tests" / "compat" / "resolve.py"), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    for line, start in zip(done.stdout.splitlines(), said, strict=True):
        assert line.startswith(start)
