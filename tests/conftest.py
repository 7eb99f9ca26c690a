"""Configuration of all tests."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from compat_table import write_table

# A process that a shell starts in the background ignores Ctrl-C, and its child processes would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Tests never download from a hub: they use files of the project or of packages, or create their own.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray workers must be able to import the scripts of the scripted engine.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent / "support"), os.environ.get("PYTHONPATH")])
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--compat-table", metavar="FILE", help="also write the table of trainers to a Markdown file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print which trainers were run, see tests/compat."""
    write_table(terminalreporter, config.getoption("compat_table"))


def pytest_runtest_setup() -> None:
    """Restore the handler of Ctrl-C, which an asynchronous fixture can leave set to that of its finished event loop."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave `gpu` tests out unless -m names them, also where -m replaces the default in pyproject.toml."""
    if "gpu" in config.getoption("markexpr"):
        return
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
