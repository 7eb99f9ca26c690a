"""Rows of JSON files: an invalid one costs only itself, and none is lost."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import MAX_DEPTH, parse_object, split_list


def nest(depth: int, inner: str = "1") -> str:
    """Nest a value in lists."""
    return "[" * depth + inner + "]" * depth


FAULTS: dict[str, tuple[bytes, str]] = {
    "broken": (b'{"a": ', "not JSON"),
    "not UTF-8": (b'{"a": "\xff"}', "not JSON .*can't decode byte 0xff"),
    "null byte": (b'{"a": "\0"}', "not JSON .Invalid control character"),
    "null bytes alone": (b"\0\0\0\0", "not JSON"),
    "deep": (b'{"a": ' + nest(10**5).encode() + b"}", "nested too deeply; expected at most 100 levels"),
    "deeper than later steps can handle": (b'{"a": ' + nest(MAX_DEPTH).encode() + b"}", "nested too deeply"),
    "deep and not closed": (b'{"a": ' + b"[" * 10**5, "nested too deeply"),
    "number of many digits": (b'{"a": ' + b"9" * 5000 + b"}", "not JSON .*4300"),
    "repeated field": (b'{"a": 1, "b": 2, "a": 3}', "field 'a': occurs twice in the same object; remove one"),
    "repeated field inside": (b'{"a": [{"b": 1, "b": 1}]}', "field 'b': occurs twice"),
    "list": (b"[1, 2]", "expected a JSON object, got list; a file that holds a list of rows ends in .json"),
    "text": (b'"a"', "expected a JSON object, got str"),
    "two objects": (b'{"a": 1} {"b": 2}', "not JSON .Extra data"),
}
GOOD = [{"id": 1}, {"id": 2, "text": '"]},{ é'}]


@pytest.mark.parametrize("fault", FAULTS)
def test_invalid_line_costs_only_its_row(fault: str, tmp_path: Path) -> None:
    line, message = FAULTS[fault]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join([json.dumps(GOOD[0]).encode(), line, json.dumps(GOOD[1]).encode()]))
    (_, first), (where, error), (_, last) = read_table(path)
    assert [first, last] == GOOD
    assert where == f"{path}, row 2"
    assert isinstance(error, UsageError)
    with pytest.raises(UsageError, match=f"^{path}, line 2[:,].*{message}"):
        raise error


@pytest.mark.parametrize("fault", [name for name in FAULTS if name not in ("broken", "deep and not closed")])
def test_invalid_element_of_a_list_costs_only_its_row(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + json.dumps(GOOD[0]).encode() + b",\n" + FAULTS[fault][0] + b",\n")
    with path.open("ab") as file:
        file.write(json.dumps(GOOD[1]).encode() + b"]")
    (_, first), (where, error), (_, last) = read_table(path)
    assert [first, last] == GOOD
    assert isinstance(error, UsageError)
    assert str(error).startswith(where)


def test_rows_before_the_fault_of_a_broken_list_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"id": 1},\n{"id": 2},\n{"id": 3, "te')
    rows = [row for _, row in read_table(path)]
    assert rows[:2] == [{"id": 1}, {"id": 2}]
    assert "row 3: not JSON" in str(rows[2])


def test_rows_before_the_end_of_a_compressed_file_that_is_cut_off_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"id": n, "text": f"{hash(str(n))}"}) + "\n" for n in range(20_000)).encode()
    for name in ("rows.jsonl.gz", "rows.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(lines)[:-100_000])
        *rows, (where, error) = read_table(tmp_path / name)
        assert len(rows) > 1000
        assert [row["id"] for _, row in rows if not isinstance(row, UsageError)] == list(range(len(rows)))
        assert isinstance(error, UsageError)
        assert str(error).startswith(f"{where}: this row and the rest of the file cannot be read: ")


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("[]", []),
        (" [ ] ", []),
        ("[1, 2]", ["1", "2"]),
        ('[{"a": [1, 2], "b": "],["}, "x\\"]"]', ['{"a": [1, 2], "b": "],["}', '"x\\"]"']),
        ('[{"a": "open},\n{"b": 1}]', ['{"a": "open}', '{"b": 1}']),
        ("[1,]", ["1"]),
        ("[1,,2]", ["1", "", "2"]),
        ("[1, 2", ["1", "2"]),
        ("[1] 2", ["1", "2"]),
        ("[1}2", ["1", "2"]),
    ],
)
def test_list_is_split_at_its_own_commas(text: str, elements: list[str]) -> None:
    assert [element.decode().strip() for element in split_list(text.encode())] == elements


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ('{"prompt": "a", "responses": ["b"]}', [{"prompt": "a", "responses": ["b"]}]),
        ('{\n"a": 1\n}\n', [{"a": 1}]),
        ("[]", []),
        (" \n", []),
    ],
)
def test_json_file_may_hold_one_row_or_none(text: str, rows: list[Any], tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    assert [row for _, row in read_table(tmp_path / "r.json")] == rows


def test_object_with_a_list_of_rows_is_unwrapped_on_request(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"version": 1, "data": [{"a": 1}, 2]}')
    (_, first), (_, second) = read_table(tmp_path / "r.json", unwrap=True)
    assert first == {"a": 1}
    assert "row 2: expected a JSON object, got int" in str(second)
    assert len(list(read_table(tmp_path / "r.json"))) == 1


def test_values_at_the_limits_are_read() -> None:
    row = parse_object(
        b'\xef\xbb\xbf{"half": "\\ud83d", "raw half": "\xed\xa0\xbd", "nan": NaN, "big": 1e999, "zero": "\\u0000", '
        b'"deep": ' + nest(MAX_DEPTH - 1).encode() + b', "digits": ' + b"9" * 4300 + b"}",
        "here",
    )
    assert row["half"] == row["raw half"] == "\ud83d"
    assert math.isnan(row["nan"])
    assert row["big"] == math.inf
    assert row["zero"] == "\0"
    json.dumps(row)


def test_huge_line_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text(json.dumps({"a": "x" * 30_000_000}) + '\n{"a": 1}\n')
    (_, first), (_, second) = read_table(tmp_path / "r.jsonl")
    assert not isinstance(first, UsageError)
    assert len(first["a"]) == 30_000_000
    assert second == {"a": 1}
