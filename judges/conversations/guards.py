"""Checks of values that are not trusted to have the expected type, or to be readable at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flex_judge.judges.conversations.values import describe_value, to_plain_value
from flex_judge.judges.errors import JudgeError, UsageError, describe_input_error, get_first_line


def read_text(value: Any, field: str) -> str:
    """Return a text; null is an empty text.

    Raises:
        UsageError: the value is something else.
    """
    value = to_plain_value(value)
    if value is None or isinstance(value, str):
        return value or ""
    raise UsageError.at_field(field, f"expected text, got {describe_value(value)}")


@contextmanager
def convert_foreign_errors(field: str) -> Iterator[None]:
    """Convert all errors in the `with` block that are not ours to a UsageError, so that they cost one row only.

    Values of data sets and SDKs raise errors of any type when they are read: arrays and tables when they are compared,
    lazy objects when they are loaded.

    Args:
        field: name of the value in error messages.
    """
    try:
        yield
    except JudgeError:
        raise
    except (RecursionError, MemoryError) as e:
        raise UsageError.at_field(field, describe_input_error(e)) from e
    except Exception as e:
        raise UsageError.at_field(field, f"cannot be read: {get_first_line(e, 200)}") from e
