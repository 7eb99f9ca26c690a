"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# Started in the background by a shell, this process ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests never reach for a hub: what they need is in the project, in a package, or made by them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers find the scripts of the scripted engine where this process does.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "support"), os.environ.get("PYTHONPATH")])
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave `gpu` tests out unless -m names them, also where -m replaces the default in pyproject.toml."""
    if "gpu" in config.getoption("markexpr"):
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
