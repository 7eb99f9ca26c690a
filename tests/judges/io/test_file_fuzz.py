"""Arbitrary bytes as a file: rows or errors of rows, never a traceback, never a lost row."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from file_forms import compress_zstd, format_parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import InvalidRow, read_comparisons, read_table
from flex_judge.judges.io.json_rows import is_blank, split_list
from flex_judge.judges.io.parquet import read_parquet_info
from flex_judge.judges.validation.text_files import iter_lines, read_text

BOUNDED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.sampled_from(["\ud83d", "]},{", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["id", "prompt", "responses", "images", "rubric", "Prompt", "x"])
ROWS = st.dictionaries(FIELDS, VALUES, max_size=4) | st.just({"prompt": "q", "responses": ["a", "b"]})
LINES = st.binary(max_size=60) | ROWS.map(lambda row: json.dumps(row).encode())
FILES = st.lists(LINES, max_size=6).map(b"\n".join)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f"


def get_result(read: Callable[[Path], Any], path: Path) -> tuple[Any, str]:
    """Return the result of reading a file and no error, or None and the error."""
    try:
        return read(path), ""
    except UsageError as e:
        return None, str(e)


def read_all(path: Path) -> list[Any]:
    """Read a table; every row has a location, and every error is about it."""
    rows = []
    for where, row in read_table(path):
        assert where.startswith(f"{path}, row {len(rows) + 1}")
        if isinstance(row, UsageError):
            assert str(row).startswith(str(path))
        else:
            json.dumps(row, default=str)
        rows.append(row)
    return rows


def check_comparisons(path: Path, count: int) -> None:
    """Read a file as comparisons: as many rows as it has, with different ids, or one error."""
    rows, error = get_result(read_comparisons, path)
    if error:
        return  # every row is invalid, or there is none
    assert len(rows) == count
    assert len({row.id for row in rows}) == count
    for row in rows:
        _, error = get_result(lambda _: row.load_comparison(), path)  # noqa: B023 - called at once
        assert error or not isinstance(row, InvalidRow)


@BOUNDED
@given(data=FILES, mark=st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]))
def test_json_lines_have_a_row_or_an_error_per_line(data: bytes, mark: bytes, path: Path) -> None:
    for name, content in (("f.jsonl", mark + data), ("f.jsonl.gz", gzip.compress(mark + data))):
        file = path.with_name(name)
        file.write_bytes(content)
        lines, error = get_result(lambda path: list(iter_lines(path)), file)
        results, table_error = get_result(read_all, file)
        assert error == table_error  # such as a file that starts like a compressed one
        if not error:
            count = sum(not is_blank(line) for line in lines)
            assert len(results) == count
            check_comparisons(file, count)
        _, error = get_result(read_text, file)
        assert not error or "not UTF-8 text" in error or "cannot be decompressed" in error


@BOUNDED
@given(rows=st.lists(LINES, max_size=5), start=st.sampled_from([b"[", b"", b"{", b'{"data": [']))
def test_json_files_have_rows_or_errors(rows: list[bytes], start: bytes, path: Path) -> None:
    file = path.with_name("f.json")
    file.write_bytes(start + b",".join(rows) + b"]")
    results, error = get_result(read_all, file)
    assert not error or error.startswith(str(file))
    if not error:
        check_comparisons(file, len(results))


@BOUNDED
@given(rows=st.lists(ROWS, min_size=1, max_size=5))
def test_lists_of_valid_rows_are_split_into_as_many(rows: list[dict[str, Any]], path: Path) -> None:
    for indent in (None, 1):
        text = json.dumps(rows, indent=indent).encode()
        assert [json.loads(element) for element in split_list(text)] == json.loads(text) or "NaN" in str(text)
        file = path.with_name("f.json")
        file.write_bytes(text)
        assert len(read_all(file)) == len(rows)


@BOUNDED
@given(
    changes=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=6),
    cut=st.none() | st.integers(0, 3000),
    options=st.sampled_from([{}, {"use_dictionary": False}, {"row_group_size": 3}, {"write_page_checksum": True}]),
)
def test_changed_parquet_files_have_as_many_rows_as_they_say(
    changes: list[tuple[int, int]], cut: int | None, options: dict[str, Any], path: Path
) -> None:
    rows = [{"id": n, "prompt": [{"role": "user", "content": "q" * n}], "responses": ["a", "b"]} for n in range(8)]
    data = bytearray(format_parquet(rows, **options))
    for position, byte in changes:
        data[position % len(data)] = byte
    file = path.with_name("f.parquet")
    file.write_bytes(data[:cut])
    info, error = get_result(read_parquet_info, file)
    if not error and info.count > 10_000:  # a changed number; as many errors are right, but slow
        return
    results, error = get_result(read_all, file)
    assert not error or error.startswith(str(file))
    if not error:
        assert len(results) == info.count
        check_comparisons(file, info.count)


@BOUNDED
@given(data=st.binary(max_size=200), position=st.integers(0, 10**4), byte=st.integers(0, 255))
def test_damaged_compressed_files_have_rows_or_one_error(data: bytes, position: int, byte: int, path: Path) -> None:
    text = b'{"id": 1}\n' * 50 + data
    for compress in (gzip.compress, compress_zstd):
        content = bytearray(compress(text))
        content[position % len(content)] = byte
        file = path.with_name("f.jsonl")
        file.write_bytes(content)
        _, error = get_result(read_all, file)
        assert not error or error.startswith(str(file))
