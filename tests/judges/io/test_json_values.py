"""JSON that every parser accepts, from any value."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strict_json import parse_strictly

from flex_judge.judges import UsageError
from flex_judge.judges.io.json_values import MAX_DEPTH, dump_json, to_json_value
from flex_judge.judges.io.jsonl import Journal, read_rows, write_rows

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (NAN, None),
        ({"a": [1, {"b": -INF}]}, {"a": [1, {"b": None}]}),
        (np.float32("nan"), None),
        (np.float32(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array([[1.5, NAN]]), [[1.5, None]]),
        (np.datetime64("2024-05-01"), "2024-05-01"),
        (pa.scalar(3), 3),
        (pa.scalar([1.0, NAN]), [1.0, None]),
        (Decimal("1.50"), 1.5),
        (Decimal("12"), 12),
        (Decimal("NaN"), None),
        (date(2024, 5, 1), "2024-05-01"),
        (datetime(2024, 5, 1, 12), "2024-05-01T12:00:00"),
        (timedelta(minutes=1), 60.0),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("a/b"), "a/b"),
        (Enum("Color", {"RED": "red"})["RED"], "red"),
        ({1, 2}, [1, 2]),
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "b", 1.5: "c", np.int64(7): "d"}, {"1": "a", "null": "b", "1.5": "c", "7": "d"}),
    ],
    ids=repr,
)
def test_values_of_other_libraries_become_plain_json(value: Any, expected: Any) -> None:
    assert parse_strictly(dump_json(value)) == expected
    assert parse_strictly(dump_json({"row": [value]})) == {"row": [expected]}


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"x", "it is b'x', of type bytes"),
        (10**5000, "it is an integer of 16610 bits"),
        (object(), "of type object; convert it to text or numbers"),
        (1j, "of type complex"),
        ({b"k": 1}, "it has the key b'k'; use text"),
    ],
    ids=["bytes", "integer", "object", "complex", "key"],
)
def test_value_that_is_not_json_is_one_error_that_names_its_place(value: Any, problem: str) -> None:
    with pytest.raises(UsageError, match=rf"^cannot be written as JSON: .*{problem}"):
        dump_json(value)
    with pytest.raises(UsageError, match=rf"^a\[1\]\.b: cannot be written as JSON: .*{problem}"):
        dump_json({"a": [0, {"b": value}]})


def test_endless_value_is_an_error() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(UsageError, match=f"nested more than {MAX_DEPTH} levels"):
        dump_json(value)


def test_non_finite_numbers_can_be_errors() -> None:
    with pytest.raises(UsageError, match=r"^a\[0\]: cannot be written as JSON: it is nan; give a finite number"):
        dump_json({"a": [NAN]}, non_finite_as_null=False)


def test_default_converts_other_types_only() -> None:
    assert parse_strictly(dump_json({"a": NAN, "b": 1j}, default=str)) == {"a": None, "b": "1j"}


def test_rows_of_files_are_valid_json(tmp_path: Path) -> None:
    row = {"id": "a", "score": NAN, "meta": {"t": date(2024, 5, 1), "n": np.float32(INF)}, "text": "\ud83d é"}
    expected = {"id": "a", "score": None, "meta": {"t": "2024-05-01", "n": None}, "text": "\ud83d é"}
    write_rows(tmp_path / "rows.jsonl", [row])
    with Journal(tmp_path / "journal.jsonl") as journal:
        journal.append(row)
    for name in ("rows.jsonl", "journal.jsonl"):
        assert parse_strictly((tmp_path / name).read_text(encoding="utf-8")) == expected
        assert list(read_rows(tmp_path / name)) == [expected]


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.floats(width=32).map(np.float32)
    | st.integers(-(2**31), 2**31 - 1).map(np.int32)
    | st.decimals()
    | st.dates()
    | st.lists(st.floats(), max_size=3).map(np.array)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers() | st.floats(), inner),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(values, st.booleans(), st.sampled_from([None, 2]))
def test_any_value_is_written_as_valid_json(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = dump_json(value, ascii_only=ascii_only, indent=indent)
    assert parse_strictly(text.encode(errors="backslashreplace").decode()) == to_json_value(value)
    assert dump_json(to_json_value(value)) == dump_json(value)
