"""Values of table cells as releases store them: missing values, numbers, lists and answers."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from flex_judge.judges.conversations import values


def is_missing(value: Any) -> bool:
    """Check whether a cell has no value: null, or NaN, as tables store an empty text."""
    return value is None or values.is_missing(value)


def read_number(value: Any) -> float:
    """Read a finite number, possibly written as text; nan for any other value."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def parse_list(value: Any) -> list[Any] | None:
    """Parse a list that a table may store as an array, or as text in the notation of JSON or Python.

    Returns:
        The list; None if the value is not a list.
    """
    if isinstance(value, str):
        value = _parse_literal(value)
    if hasattr(value, "tolist"):  # an array of numpy
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else None


def read_answer(value: Any) -> str | None:
    """Read an answer, which JSON and tables may store as a number or a boolean, such as `7` or `true`.

    Returns:
        The text, with numbers and booleans as JSON spells them; an empty text for a missing value, None for another
        type.
    """
    if is_missing(value):
        return ""
    if isinstance(value, Mapping):  # MLLM-as-a-Judge stores the author with the answer
        return read_answer(value["answer"]) if "answer" in value else None
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    return value if isinstance(value, str) else None


def _parse_literal(text: str) -> Any:
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None
