"""Plain Python values from the values of data sets and SDKs: numpy, Arrow and pydantic objects."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from typing import Any

_PLAIN = str | bytes | int | float | bool | None


def to_plain_value(value: Any) -> Any:
    """Convert the outermost level of a value: sequences to lists, objects with fields to dicts.

    Arrow scalars and object arrays, as Parquet readers return them, become Python values, and members of an enum their
    value. NaN, NA and NaT, which pandas stores in empty cells, become None. Images, numeric arrays and media are
    unchanged.
    """
    if isinstance(value, Enum):
        return to_plain_value(value.value)
    if is_missing(value):
        return None
    if isinstance(value, _PLAIN):
        return value
    if hasattr(value, "as_py"):
        return to_plain_value(value.as_py())
    if hasattr(value, "model_dump"):
        return value.model_dump()
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind and (kind in "OUS" or not getattr(value, "shape", (1,))):  # arrays of objects and texts; numpy scalars
        plain = value.tolist()
        return None if is_missing(plain) else plain
    if isinstance(value, Sequence) and not isinstance(value, bytearray | memoryview):
        return list(value)
    return value


def is_missing(value: Any) -> bool:
    """Return whether a value is NaN, NA or NaT, which pandas stores in empty cells."""
    if isinstance(value, float):
        return value != value
    return type(value).__name__ in ("NAType", "NaTType")


def to_mapping(value: Any) -> Mapping[str, Any] | None:
    """Convert an object with named fields, such as a message of an SDK, to a mapping; None for other values."""
    value = to_plain_value(value)
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value) and not isinstance(value, type) and hasattr(value, "role"):
        return asdict(value)
    return None


def is_empty(value: Any) -> bool:
    """Return whether a field has no content: tables store null, an empty text or an empty list in unused fields."""
    value = to_plain_value(value)
    if value is None:
        return True
    if isinstance(value, str | list | tuple | dict | bytes):
        return not value
    return False


def is_no_medium(source: Any) -> bool:
    """Return whether an entry of a media column is null or an empty text. An empty list or object is an error of it."""
    source = to_plain_value(source)
    return source is None or (isinstance(source, str | bytes) and not source)


def describe_value(value: Any) -> str:
    """Describe a value in an error message; null, true and false as in JSON."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    try:
        return reprlib.repr(value)
    except Exception:  # noqa: BLE001 - of a foreign type, or a whole number of too many digits
        return f"a value of type {type(value).__name__}"


def to_json_text(value: Any) -> str:
    """Format a value as one line of JSON; text is returned unchanged, and other objects become their text."""
    if isinstance(value, str):
        return str(to_plain_value(value))
    return json.dumps(_to_json_value(value), ensure_ascii=False)


def _to_json_value(value: Any) -> Any:
    if isinstance(value, float) and value - value != 0:  # NaN and infinities are no JSON
        return str(value)
    value = to_plain_value(value)
    if isinstance(value, Mapping):
        return {str(name): _to_json_value(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(v) for v in value]
    if isinstance(value, str | int | float | bool | None):
        return value
    return str(value)
