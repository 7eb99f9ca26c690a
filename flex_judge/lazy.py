"""Lazy exports: a package's public names are imported when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return a module-level `__getattr__` (PEP 562) that imports public names on first use.

    Args:
        package: `__name__` of the package.
        exports: for each module of the package, the names that it defines.

    Example:
        >>> __getattr__ = lazy_exports("flex_judge.judges", {"flex_judge.judges.types": ["Comparison"]})
        >>> __getattr__("Comparison").__name__
        'Comparison'
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # so that the next use finds it at once
        return value

    return load
