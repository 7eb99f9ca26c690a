"""Lazy imports of heavy modules in tests, so that collecting all tests takes only seconds.

Example:
    torch = lazy("torch")
    load_file, save_file = lazy("safetensors.torch", "load_file", "save_file")
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

PROBED_BY_PYTEST = ("_mock_name", "__wrapped__", "__test__", "__bases__")
"""Attributes that pytest reads from every object in a test module to find tests and fixtures."""


def lazy(module: str, *names: str) -> Any:
    """Create a proxy for a module, or for names in it, that imports the module on first use.

    Args:
        module: full name of the module.
        *names: names in the module; without names, the proxy stands for the module itself.

    Returns:
        One proxy, or a tuple of proxies for several names. Proxies support calls, attributes, subscripts, iteration and
        `isinstance`. Constants that are numbers or strings have to be imported directly.
    """
    if len(names) > 1:
        return tuple(Lazy(module, name) for name in names)
    return Lazy(module, *names)


class Lazy:
    """Proxy for a module or a name in it."""

    def __init__(self, module: str, name: str = "") -> None:
        object.__setattr__(self, "_target", (module, name))

    def _load(self) -> Any:
        module, name = object.__getattribute__(self, "_target")
        imported_module = importlib.import_module(module)
        return getattr(imported_module, name) if name else imported_module

    def __getattr__(self, name: str) -> Any:
        if name in PROBED_BY_PYTEST:
            raise AttributeError(name)
        return getattr(self._load(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._load(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._load(), name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._load()(*arguments, **options)

    def __getitem__(self, key: Any) -> Any:
        return self._load()[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._load())

    def __instancecheck__(self, value: object) -> bool:
        return isinstance(value, self._load())
