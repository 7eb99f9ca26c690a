"""Tables of benchmark releases: delimiters, quotes, long cells, byte-order marks and damaged cells."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import pytest
from file_forms import BAD_TEXT, format_parquet

from flex_judge.experiments.benchmarks.data import open_data
from flex_judge.experiments.benchmarks.data_files import read_data_file
from flex_judge.judges.errors import UsageError


def read_rows(path: Path, *columns: str) -> list[dict[str, str]]:
    return [dict(row) for _, row in read_data_file(path, columns)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("name", "delimiter"), [("t.csv", ","), ("t.csv", ";"), ("t.tsv", "\t"), ("t.txt", "|")])
def test_table_is_read_in_every_form(name: str, delimiter: str, line_end: str, encoding: str, tmp_path: Path) -> None:
    lines = ["clip,mos", 'ä,"4, or\n5"', '"say ""hi""",3', ""]
    text = line_end.join(line.replace(",", delimiter).replace(f"4{delimiter}", "4,") for line in lines)
    rows = [{"clip": "ä", "mos": "4, or\n5"}, {"clip": 'say "hi"', "mos": "3"}]
    files = {tmp_path / name: text.encode(encoding), tmp_path / f"{name}.gz": gzip.compress(text.encode())}
    for path, data in files.items():
        path.write_bytes(data)
        assert read_rows(path) == rows
        assert len(open_data([str(path)], (), "rows").records) == 2


def test_cells_of_any_length_are_read_and_the_limit_of_the_process_stays(tmp_path: Path) -> None:
    limit = csv.field_size_limit()
    (tmp_path / "t.csv").write_text("id,text\n1," + "x" * 1_000_000 + '\n2,"' + "y,\n" * 100_000 + '"\n')
    assert [len(row["text"]) for row in read_rows(tmp_path / "t.csv")] == [1_000_000, 300_000]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_bad_text_is_an_error_only_where_it_is_needed(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"id,a,b\n1,x,y\n2,b\xffd,y\n" if name == "t.csv" else b"")
    if name == "t.parquet":
        path.write_bytes(format_parquet([{"id": "1", "a": "x", "b": "y"}, {"id": "2", "a": BAD_TEXT, "b": "y"}]))
    first, second = open_data([str(path)], (), "rows").records
    assert (first.get_text("a"), second.get_text("b")) == ("x", "y")
    with pytest.raises(UsageError, match=rf"{name}, row 2, field 'a': cannot be read: not UTF-8"):
        second.get_text("a")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('id,text\n1,"open\n2,b\n', "row 1: a quote is not closed; write quotes inside of cells twice"),
        ("id,text\n1,a,b\n", "row 1: has 3 cells, but there are 2 columns; put quotes around cells that contain ','"),
        ("id,id\n1,2\n", "has two columns 'id'; rename one"),
    ],
)
def test_table_that_would_lose_text_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_rows(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("", []),
        ("\n\n", []),
        ("id,text\n", []),
        ("\n\nid,text\n1,a\n\n\n2,b", [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}]),
        ("id,text,\n1,a,\n", [{"id": "1", "text": "a", "": ""}]),
        ("id,text\n1,a,,\n", [{"id": "1", "text": "a"}]),
        ('id,text\n1,5" pipe\n', [{"id": "1", "text": '5" pipe'}]),
        ("id,text\n1,a\0b\n", [{"id": "1", "text": "a\0b"}]),
        ("text\none, two\n", [{"text": "one"}]),
    ],
)
def test_small_tables_are_read(text: str, rows: list[dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    if rows == [{"text": "one"}]:
        with pytest.raises(UsageError, match="row 1: has 2 cells, but there are 1 columns"):
            read_rows(tmp_path / "t.csv")
        return
    assert read_rows(tmp_path / "t.csv") == rows


def test_table_without_a_header_gets_the_names_of_the_release(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfa.wav,4.5,more\nb.wav,3\n")
    assert read_rows(tmp_path / "t.csv", "clip", "mos") == [
        {"clip": "a.wav", "mos": "4.5"},
        {"clip": "b.wav", "mos": "3"},
    ]
