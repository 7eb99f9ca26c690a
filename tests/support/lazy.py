"""Heavy imports of test modules, put off until a test runs: collecting all tests then takes seconds.

Example:
    torch = lazy("torch")
    load_file, save_file = lazy("safetensors.torch", "load_file", "save_file")
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

ASKED_BY_PYTEST = ("_mock_name", "__wrapped__", "__test__", "__bases__")
"""What pytest asks of every object in a test module, to find tests and fixtures."""


def lazy(module: str, *names: str) -> Any:
    """Stand in for a module, or for names in it, and import it at the first use.

    Returns:
        One stand-in, or a tuple of them for two names or more. They can be called, asked for attributes, given new
        ones, subscripted, iterated and used in `isinstance`; constants that are numbers or strings have to be imported.
    """
    if len(names) > 1:
        return tuple(Lazy(module, name) for name in names)
    return Lazy(module, *names)


class Lazy:
    """The stand-in."""

    def __init__(self, module: str, name: str = "") -> None:
        object.__setattr__(self, "_place", (module, name))

    def _load(self) -> Any:
        module, name = object.__getattribute__(self, "_place")
        loaded = importlib.import_module(module)
        return getattr(loaded, name) if name else loaded

    def __getattr__(self, name: str) -> Any:
        if name in ASKED_BY_PYTEST:
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
