"""Plain floats from the numbers of other libraries, and checks of numbers that came from elsewhere."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from numbers import Real
from typing import Any

from flex_judge.judges.errors import UsageError


def convert_to_float(value: Any) -> float:
    """Convert a number of Python, NumPy, torch or Arrow, or a boolean, to a float, which may be NaN or infinite.

    Raises:
        UsageError: the value is not a single number; texts are none.
    """
    plain = value
    if hasattr(plain, "as_py"):  # a scalar of Arrow
        plain = plain.as_py()
    elif hasattr(plain, "item") and hasattr(plain, "dtype"):  # a scalar or tensor with one element
        try:
            plain = plain.item()
        except (TypeError, ValueError, RuntimeError) as e:
            raise UsageError(f"expected a number, got {reprlib.repr(value)}") from e
    # Decimals are numbers, but do not register as real ones.
    if isinstance(plain, Real) or (hasattr(plain, "as_tuple") and hasattr(plain, "is_finite")):
        try:
            return float(plain)
        except (OverflowError, ValueError) as e:
            raise UsageError(f"expected a number in the range of floats, got {reprlib.repr(value)}") from e
    raise UsageError(f"expected a number, got {reprlib.repr(value)}")


def require_finite_float(value: Any, where: str) -> float:
    """Return a number as a finite float.

    Args:
        value: the number; booleans are none.
        where: place of the value, for the error.

    Raises:
        UsageError: the value is not a number, or is NaN or infinite.
    """
    try:
        number = convert_to_float(value)
    except UsageError as e:
        raise UsageError(f"{where}: {e}") from e
    # NumPy has a boolean type of its own.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool" or not math.isfinite(number):
        raise UsageError(f"{where}: expected a finite number, got {reprlib.repr(value)}")
    return number


def read_optional_float(value: Any, where: str) -> float | None:
    """Return a number as a finite float, and None as None; see `require_finite_float`."""
    return None if value is None else require_finite_float(value, where)


def read_optional_floats(values: Any, where: str) -> tuple[float, ...] | None:
    """Return a sequence of numbers as finite floats, and None as None.

    Raises:
        UsageError: the value is not a sequence, or an element is not a finite number.
    """
    if values is None:
        return None
    if hasattr(values, "tolist"):  # an array
        values = values.tolist()
    if not isinstance(values, Sequence) or isinstance(values, str | bytes):
        raise UsageError(f"{where}: expected a list of numbers, got {reprlib.repr(values)}")
    return tuple(require_finite_float(value, f"{where}[{i}]") for i, value in enumerate(values))
