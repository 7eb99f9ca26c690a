"""Columns of tables: mapping to fields, and cells that are text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.columns import ColumnMapping, read_cells
from flex_judge.judges.io.csv_rows import read_csv_rows
from flex_judge.judges.io.files import FIELDS, InvalidRow, read_comparisons
from flex_judge.judges.io.json_rows import TextRow


def read(path: Path, *columns: str) -> list[list[Any] | str]:
    rows = read_comparisons(path, columns=ColumnMapping.from_arguments(columns, FIELDS))
    return [str(row.error) if isinstance(row, InvalidRow) else list(row.load_comparison().responses) for row in rows]


@pytest.mark.parametrize(
    ("field", "cell", "value"),
    [
        ("responses", '["a", "b"]', ["a", "b"]),
        ("responses", "['a', \"b's\"]", ["a", "b's"]),
        ("responses", "[broken", "[broken"),
        ("responses", "", None),
        ("prompt", "[1, 2, 3]: what is the sum?", "[1, 2, 3]: what is the sum?"),
        ("prompt", "[1, 2, 3]", "[1, 2, 3]"),
        ("prompt", '{"a": 1}', '{"a": 1}'),
        ("prompt", '[{"role": "user", "content": "Q"}]', [{"role": "user", "content": "Q"}]),
        ("prompt", "42", "42"),
        ("prompt", "", None),
        ("chosen", "", ""),
        ("answer2_body", "", ""),
        ("id", "007", "007"),
        ("molecules", "[Na+].[Cl-]", "[Na+].[Cl-]"),
        ("images", "cat.png", "cat.png"),
        ("images", '["cat.png", "dog.png"]', ["cat.png", "dog.png"]),
        ("score", "[8, 4.5]", [8, 4.5]),
        ("score", "8", 8.0),
        ("score", "good", "good"),
        ("comment", "[1, 2]", "[1, 2]"),
        ("responses", "[" * 200 + "]" * 200, "[" * 200 + "]" * 200),
    ],
)
def test_cells_become_what_their_field_needs(field: str, cell: str, value: Any) -> None:
    assert read_cells(TextRow({field: cell}))[field] == value
    assert read_cells({field: cell})[field] == cell  # JSON has types of its own


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_columns_with_other_names_are_judged(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{suffix}"
    path.write_text(
        'q,a,b\nWhy?,"1, or\n2",\n' if suffix == ".csv" else '{"q": "Why?", "a": "1, or\\n2", "b": ""}\n', "utf-8"
    )
    assert read(path, "prompt=q", "responses=a", "responses=b") == [["1, or\n2", ""]]
    assert read(path, "prompt=q", "responses=a") == [["1, or\n2"]]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["prompt=quest", "responses=a"], r"rows.csv, row 1: has no column 'quest'; .*did you mean 'question'\?"),
        (["prompt=question"], "row 1: field 'responses' is missing; the columns are question, a, b; map one with"),
        (["promt=question"], r"--column promt=question: there is no field 'promt'; did you mean 'prompt'\?"),
        (["prompt"], "--column prompt: expected FIELD=COLUMN with a field of id, prompt, "),
        (["prompt=question", "prompt=a"], "'prompt' has the column 'question' already"),
        (["prompt=question", "responses=a", "images=pics"], "has no column 'pics'; the columns are question, a, b"),
    ],
)
def test_columns_that_do_not_exist_are_named_with_those_found(columns: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,a,b\nWhy?,1,2\n")
    with pytest.raises(UsageError, match=message) as error:
        read(tmp_path / "rows.csv", *columns)
    assert "\n" not in str(error.value)


def test_damaged_end_of_a_table_costs_only_its_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a\n1\n2\n"open\n3\n')
    rows = [row for _, row in read_csv_rows(tmp_path / "t.csv")]
    assert [str(row) if isinstance(row, UsageError) else dict(row) for row in rows] == [
        {"a": "1"},
        {"a": "2"},
        f"{tmp_path / 't.csv'}, row 3: a quote is not closed; write quotes inside of cells twice",
    ]


def test_header_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe,b\n1,2\n".encode("latin-1"))
    with pytest.raises(UsageError, match="the header is not UTF-8 text; save the file as UTF-8"):
        list(read_csv_rows(tmp_path / "t.csv"))
