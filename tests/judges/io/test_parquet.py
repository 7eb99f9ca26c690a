"""Parquet files with damaged values, pages and row groups: each costs only its rows."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_forms import BAD_TEXT, format_parquet

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import InvalidRow, read_comparisons
from flex_judge.judges.io.json_rows import PartialRow, UnreadableRowError
from flex_judge.judges.io.parquet import read_parquet, read_parquet_info


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.parquet"


def read_rows(path: Path, *range: int, **options: Any) -> list[Any]:
    return [row for _, row in read_parquet(path, *range, **options)]


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"row_group_size": 2}])
@pytest.mark.parametrize(
    "value",
    [BAD_TEXT, [BAD_TEXT], {"x": [{"y": BAD_TEXT}]}, [None, {"role": "user", "content": BAD_TEXT}]],
    ids=["text", "list", "struct", "messages"],
)
def test_text_that_is_not_utf8_costs_only_its_row(value: Any, options: dict[str, Any], path: Path) -> None:
    path.write_bytes(format_parquet([{"id": n, "v": value if n == 1 else None} for n in range(5)], **options))
    rows = read_rows(path)
    assert [row["id"] for row in rows if not isinstance(row, UsageError)] == [0, 2, 3, 4]
    assert isinstance(rows[1], UnreadableRowError)
    assert str(rows[1]).startswith(f"{path}, row 2, field 'v': cannot be read: not UTF-8 text: byte 2")
    assert rows[1].data == {"id": 1, "v": None}
    partial = PartialRow(rows[1])
    assert partial["id"] == partial.get("id") == 1
    with pytest.raises(UsageError, match=r"row 2, field 'v': cannot be read"):
        partial.get("v")
    assert [row["id"] for row in read_rows(path, needs=lambda name: name == "id")] == list(range(5))
    assert [row["v"] for row in read_rows(path, needs=lambda name: name == "id")] == [None] * 5
    assert len(read_rows(path, 1, 3)) == 2
    assert isinstance(read_rows(path, 1, 2)[0], UsageError)
    assert read_rows(path, 3, 9, needs=lambda _: False) == [{"id": None, "v": None}] * 2


def write_pages(path: Path, **options: Any) -> int:
    """Write 3 row groups of 1,000 rows in pages of 100, and damage a page in the middle of the second group.

    Returns:
        Index of the first row of the damaged page.
    """
    texts = [f"question {n} " + f"{n * 7919:x}" * 5 for n in range(3000)]
    table = pa.table({"id": pa.array(range(3000)), "text": texts, "other": ["o"] * 3000})
    layout = {"row_group_size": 1000, "data_page_size": 1, "write_batch_size": 100, "use_dictionary": False}
    pq.write_table(table, path, **{**layout, "compression": "none", **options})
    data = bytearray(path.read_bytes())
    if options.get("compression"):
        chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
        start = chunk.data_page_offset + chunk.total_compressed_size // 2
    else:
        start = data.index(texts[1550].encode())
    for k in range(start, start + 300):
        data[k] ^= 0x55
    path.write_bytes(data)
    return 1500


@pytest.mark.parametrize(
    "options",
    [
        {"write_page_checksum": True},
        {"compression": "zstd"},
        {"compression": "zstd", "data_page_version": "2.0"},
        {"compression": "snappy", "write_page_checksum": True},
    ],
)
def test_damaged_page_costs_the_rest_of_its_row_group_only(options: dict[str, Any], path: Path) -> None:
    write_pages(path, **options)
    rows = read_rows(path)
    bad = [n for n, row in enumerate(rows) if isinstance(row, UsageError)]
    assert len(rows) == 3000
    assert bad == list(range(bad[0], 2000))
    assert 1300 < bad[0] < 1700
    assert bad[0] % 100 == 0
    assert str(rows[bad[0]]).startswith(f"{path}, row {bad[0] + 1}, field 'text': cannot be read: damaged page (")
    assert all(row["id"] == n for n, row in enumerate(rows) if n not in bad)
    assert all(row.data["id"] == n for n, row in enumerate(rows) if n in bad)
    # A range that does not start with the row group, and columns without the damage.
    middle = read_rows(path, bad[0] - 3, bad[0] + 2)
    assert [isinstance(row, UsageError) for row in middle] == [False] * 3 + [True] * 2
    assert not any(isinstance(row, UsageError) for row in read_rows(path, needs=lambda name: name != "text"))


def test_values_that_python_cannot_hold_cost_only_their_row(path: Path) -> None:
    times = pa.array([0, 2**53, None], pa.timestamp("ms"))
    table = pa.table(
        {
            "time": times,
            "list": pa.array([[{"a": None, "b": "x"}], [None], None]),
            "category": pa.array(["a", "b", None]).dictionary_encode(),
            "long": pa.array(["a", "b", None], pa.large_string()),
            "bytes": pa.array([b"\xff", b"", None]),
            "a.b": [1, 2, 3],
            "a": [{"b": 4}, {"b": 5}, None],
        }
    )
    pq.write_table(table, path)
    first, second, third = read_rows(path)
    assert first == {
        "time": datetime.datetime(1970, 1, 1),
        "list": [{"a": None, "b": "x"}],
        "category": "a",
        "long": "a",
        "bytes": b"\xff",
        "a.b": 1,
        "a": {"b": 4},
    }
    assert str(second) == f"{path}, row 2, field 'time': cannot be read: date value out of range"
    assert second.data["a"] == {"b": 5}
    assert third == dict.fromkeys(table.column_names) | {"a.b": 3}
    # The name of a column may be the beginning of another one's.
    assert [row["a.b"] for row in read_rows(path, needs=lambda name: name == "a")] == [None] * 3


def cut(data: bytes) -> bytes:
    return data[:-20]


@pytest.mark.parametrize(
    ("change", "message"),
    [(cut, "not a Parquet file, or damaged"), (lambda _: b"words", "not a Parquet file"), (lambda _: b"", "not a P")],
)
def test_file_without_a_readable_footer_is_one_error(
    change: Callable[[bytes], bytes], message: str, path: Path
) -> None:
    path.write_bytes(change(format_parquet([{"a": 1}])))
    for read in (read_rows, read_parquet_info):
        with pytest.raises(UsageError, match=message):
            read(path)


def test_two_columns_of_the_same_name_are_an_error_if_they_are_read(path: Path) -> None:
    pq.write_table(pa.table([pa.array([1]), pa.array([2]), pa.array([3])], names=["a", "a", "b"]), path)
    with pytest.raises(UsageError, match=r"rows\.parquet: has two columns 'a'; rename one"):
        read_rows(path)
    assert read_rows(path, needs=lambda name: name == "b") == [{"a": None, "b": 3}]


PAIR: dict[str, Any] = {"prompt": "What is 2 + 3?", "responses": ["5", "6"]}


def test_comparisons_need_only_their_own_columns(path: Path) -> None:
    rows = [{**PAIR, "id": n, "note": "", "source": "web"} for n in "abcd"]
    rows[0]["note"] = rows[1]["prompt"] = BAD_TEXT
    rows[2]["id"] = BAD_TEXT
    path.write_bytes(format_parquet(rows))
    first, second, third, last = read_comparisons(path)
    assert (first.id, last.id) == ("a", "d")
    assert first.load_comparison().responses == ("5", "6")
    assert isinstance(second, InvalidRow)
    assert isinstance(third, InvalidRow)
    assert (second.id, second.where) == ("b", f"{path}, row 2")
    assert third.id == "3"
    with pytest.raises(UsageError, match=r"rows\.parquet, row 2, field 'prompt': cannot be read: not UTF-8"):
        second.load_comparison()


@pytest.mark.parametrize("column", ["promt", "Images", "vidoes", "respones"])
def test_misspelled_columns_are_reported_although_only_fields_are_read(column: str, path: Path) -> None:
    row = {**PAIR, column: ["x"]}
    for name in ("prompt", "responses"):
        if column[:4] == name[:4] or column == "promt":
            row.pop(name, None)
    path.write_bytes(format_parquet([row]))
    with pytest.raises(UsageError, match=f"unknown field '{column}'"):
        read_comparisons(path)


def test_ids_stay_unique_if_rows_are_invalid(path: Path) -> None:
    rows = [{**PAIR, "id": "3"}, {**PAIR, "id": "3"}, {"prompt": "no responses"}, {**PAIR, "id": "2"}]
    path.write_bytes(format_parquet(rows))
    ids = [row.id for row in read_comparisons(path)]
    assert ids == ["3", "2+", "3+", "2"]
