"""Structure of parsed JSON: fields that occur twice in an object, and depth."""

from __future__ import annotations

from typing import Any


class RepeatedKeyError(ValueError):
    """Object with two values of the same name, of which Python would silently drop the first."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the field {key[:60]!r} occurs twice in one object")
        self.key = key


def make_unique_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object for `json.loads(..., object_pairs_hook=make_unique_object)`.

    Raises:
        RepeatedKeyError: a name occurs twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return value


def is_deeper(value: Any, max_depth: int) -> bool:
    """Return whether lists and objects are nested deeper than a limit."""
    # Level by level instead of recursively, so that a deep value cannot exhaust the stack.
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(max_depth):
        nested: list[Any] = []
        for outer in level:
            values = outer.values() if isinstance(outer, dict) else outer
            nested.extend(inner for inner in values if isinstance(inner, dict | list))
        level = nested
        if not level:
            return False
    return bool(level)
