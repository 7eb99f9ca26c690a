"""Lazy exports: public names of a package that are imported on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_exports(package: str, exports: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Create a module-level `__getattr__` (PEP 562) that imports public names on first use.

    Args:
        package: `__name__` of the package.
        exports: module -> public names that it defines.

    Example:
        >>> __getattr__ = lazy_exports("flex_judge.judges", {"flex_judge.judges.types": ["Comparison"]})
        >>> __getattr__("Comparison").__name__
        'Comparison'
    """
    modules = {name: module for module, names in exports.items() for name in names}

    def load_name(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # Python calls __getattr__ only for missing names.
        return value

    return load_name
