"""The core resolves together with each trainer; a conflict gives one line and exit status 1."""

from __future__ import annotations

import subprocess
import sys

import pytest
from repository import ROOT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("packages", "status", "line_starts"),
    [
        ([], 0, ["verl==0.9.1: resolved, ", "verifiers==0.4.0: ", "openrlhf==0.11.2: ", "trl==1.16.0: resolved, "]),
        (["httpx==0.20"], 1, ["httpx==0.20: "]),
    ],
)
def test_core_resolves_with_each_trainer(packages: list[str], status: int, line_starts: list[str]) -> None:
    command = [sys.executable, str(ROOT / "tests" / "compat" / "resolve.py"), *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == status
    for line, start in zip(done.stdout.splitlines(), line_starts, strict=True):
        assert line.startswith(start)
