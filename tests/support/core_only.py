"""Simulate a core install: hide every package that is not in the core. Use it in a separate process.

Example:
    python -c "import core_only; core_only.hide_other_packages(); import flex_judge"
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

CORE = {"httpx", "pydantic", "yaml", "rich"}
CORE_DEPENDENCIES = {"anyio", "certifi", "h11", "httpcore", "idna", "sniffio"}  # httpx's
CORE_DEPENDENCIES |= {"annotated_types", "pydantic_core", "typing_extensions", "typing_inspection"}  # pydantic's
CORE_DEPENDENCIES |= {"_yaml", "markdown_it", "mdurl", "pygments"}  # PyYAML's and rich's
OTHER_DISTRIBUTION_NAMES = {"pyyaml", "markdown_it_py"}  # distributions whose names differ from their packages
VISIBLE = {"flex_judge", *CORE, *CORE_DEPENDENCIES, *sys.stdlib_module_names}


class _Finder:
    """Finder that passes only visible modules to another finder."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # `_sysconfigdata...` belongs to the standard library, but its name depends on the platform.
        visible = name.partition(".")[0] in VISIBLE or name.startswith("_sysconfigdata")
        return self._finder.find_spec(name, path, target) if visible else None

    def find_distributions(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        """Yield the visible distributions, for importlib.metadata."""
        find = getattr(self._finder, "find_distributions", lambda *_, **__: ())
        for distribution in find(*arguments, **options):
            if distribution.name.lower().replace("-", "_") in VISIBLE | OTHER_DISTRIBUTION_NAMES:
                yield distribution

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide_other_packages() -> None:
    """Make this process see the standard library, the core, and this project only."""
    sys.meta_path[:] = [_Finder(finder) for finder in sys.meta_path]


def run_in_core(code: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run code in a process that sees the core only.

    Raises:
        AssertionError: the code failed, unless `check` is False; the message holds its error output.
    """
    prefix = "import core_only; core_only.hide_other_packages()\n"
    done = subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, done.stderr
    return done


def run_command_in_core(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `flex-judge` with arguments in a process that sees the core only."""
    code = f"import sys; from flex_judge.experiments.cli import main; sys.exit(main({list(arguments)!r}))"
    return run_in_core(code, check=False)
