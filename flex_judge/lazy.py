"""Lazy exports: public names of a package that are imported on first use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Exports = Mapping[str, Sequence[str]]
"""Module -> public names that it defines."""


def lazy_exports(
    package: str, exports: Exports, plugins: Mapping[str, Exports] | None = None, defined: Sequence[str] = ()
) -> Callable[[str], Any]:
    """Create a module-level `__getattr__` (PEP 562) that imports public names on first use.

    It also computes `__all__` for a package that defines none: the names of `exports` and `defined`, and those of each
    plug-in whose host is loaded. Frameworks that find a plug-in through the `__all__` of a package thus see its class,
    and a process without the framework never imports it.

    Args:
        package: `__name__` of the package.
        exports: names of every process.
        plugins: names for one framework each, by the module of the framework that must be loaded for `__all__` to list
            them.
        defined: further names in `__all__`, which the package itself defines.

    Example:
        >>> __getattr__ = lazy_exports("flex_judge.judges", {"flex_judge.judges.types": ["Comparison"]})
        >>> __getattr__("Comparison").__name__
        'Comparison'
        >>> __getattr__("__all__")
        ['Comparison']
    """
    hosts = plugins or {}
    modules = {
        name: module for group in (exports, *hosts.values()) for module, names in group.items() for name in names
    }

    def list_names() -> list[str]:
        loaded = (exports, *(group for host, group in hosts.items() if host in sys.modules))
        return sorted({*defined, *(name for group in loaded for names in group.values() for name in names)})

    def load_name(name: str) -> Any:
        if name == "__all__":
            return list_names()
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(modules[name]), name)
        setattr(sys.modules[package], name, value)  # Python calls __getattr__ only for missing names.
        return value

    return load_name
