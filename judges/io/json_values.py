"""Conversion of values to JSON that every parser accepts: no NaN, no infinity, and no value that is not plain JSON."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from flex_judge.judges.errors import UsageError

MAX_DEPTH = 200
"""Maximum nesting of a value; parsers have limits of a few hundred levels."""
MAX_INTEGER_BITS = 14_000
"""Maximum size of an integer: Python writes at most 4300 digits."""


def dump_json(
    value: Any,
    *,
    indent: int | None = None,
    ascii_only: bool = False,
    non_finite_as_null: bool = True,
    default: Callable[[Any], Any] | None = None,
) -> str:
    r"""Write a value as JSON text. Values that are not plain JSON are converted, see `to_json_value`.

    Args:
        value: the value.
        indent: number of spaces per level; None writes one line.
        ascii_only: whether other characters are escaped. If not, the text can contain lone surrogates: encode it with
            the error handler `backslashreplace`, which writes their JSON escapes such as `\ud83d`.
        non_finite_as_null: whether NaN and infinity become null; if not, they are an error.
        default: function that converts values of other types; None makes them an error.

    Raises:
        UsageError: a value cannot be written as JSON; the message names its place.
    """

    def dump(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only, allow_nan=False)

    try:
        return dump(value)  # most values are plain JSON already, and this is many times faster than a conversion
    except (TypeError, ValueError, RecursionError):
        return dump(to_json_value(value, non_finite_as_null=non_finite_as_null, default=default))


def to_json_value(
    value: Any, where: str = "", *, non_finite_as_null: bool = True, default: Callable[[Any], Any] | None = None
) -> Any:
    """Convert a value to plain JSON: dictionaries with text keys, lists, texts, finite numbers, booleans and None.

    NumPy and Arrow values become Python's, sets become lists, dates and times ISO 8601 texts, durations seconds, and
    decimals numbers.

    Args:
        value: the value.
        where: place of the value for error messages, such as `meta.size`.
        non_finite_as_null: whether NaN and infinity become None; if not, they are an error.
        default: function that converts values of other types; None makes them an error.

    Raises:
        UsageError: the value cannot be converted: bytes, a nesting of more than MAX_DEPTH levels, or another type.
    """
    return _Converter(non_finite_as_null, default).convert(value, where, depth=0)


@dataclass(frozen=True)
class _Converter:
    """Options of a conversion, see `to_json_value`."""

    non_finite_as_null: bool
    default: Callable[[Any], Any] | None

    def convert(self, value: Any, where: str, depth: int) -> Any:
        """Convert a value inside of `depth` containers."""
        value = _unwrap_value(value)
        if isinstance(value, str):
            return str(value)
        if value is None or isinstance(value, bool | int | float):
            return self._convert_number(value, where)
        if depth == MAX_DEPTH:
            raise _make_error(where, f"is nested more than {MAX_DEPTH} levels deep; JSON readers have limits")
        if isinstance(value, Mapping):
            converted = {}
            for key, item in value.items():
                name = _convert_key(key, where)
                converted[name] = self.convert(item, f"{where}.{name}" if where else name, depth + 1)
            return converted
        if isinstance(value, list | tuple | Set):
            items = sorted(value, key=repr) if isinstance(value, Set) else value
            return [self.convert(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(items)]
        if self.default is not None:
            return self.convert(self.default(value), where, depth + 1)
        raise _make_error(
            where,
            f"is {reprlib.repr(value)}, of type {type(value).__name__}; convert it to text or numbers, or leave it out",
        )

    def _convert_number(self, value: bool | float | None, where: str) -> bool | float | None:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            # The bit length is known at once; the digits of a huge integer take long.
            if value.bit_length() > MAX_INTEGER_BITS:
                raise _make_error(where, f"is an integer of {value.bit_length()} bits; write it as text")
            return int(value)
        if math.isfinite(value):
            return float(value)
        if self.non_finite_as_null:
            return None
        raise _make_error(where, f"is {value}; give a finite number")


def _make_error(where: str, problem: str) -> UsageError:
    # A deeply nested value has a long place, whose beginning says enough.
    place = where if len(where) <= 100 else f"{where[:100]}..."
    return UsageError(f"{place}{': ' if place else ''}cannot be written as JSON: it {problem}")


def _unwrap_value(value: Any) -> Any:
    """Convert values of NumPy and Arrow, dates, decimals and similar ones to plain Python; others are unchanged."""
    if isinstance(value, Enum):
        return value.value
    if hasattr(value, "as_py"):
        value = value.as_py()
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        # The nearest text of a short float: 0.1, not 0.10000000149011612.
        is_short = str(value.dtype) in ("float16", "float32") and getattr(value, "ndim", None) == 0
        value = float(str(value)) if is_short else value.tolist()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return math.nan
        return int(value) if value == value.to_integral_value() and value.adjusted() < 400 else float(value)
    if isinstance(value, date | time):  # a datetime is a date
        # A missing time of pandas is a date that does not equal itself.
        return value.isoformat() if value == value else None
    if isinstance(value, timedelta):
        return value.total_seconds() if value == value else None
    return str(value) if isinstance(value, UUID | PurePath) else value


def _convert_key(key: Any, where: str) -> str:
    """Convert a key of an object to text as `json.dumps` does."""
    key = _unwrap_value(key)
    if isinstance(key, str):
        return str(key)
    if key is None or isinstance(key, bool | int | float):
        return json.dumps(key)
    raise _make_error(where, f"has the key {reprlib.repr(key)}; use text")
