"""Crash-safe JSON lines files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flex_judge.judges import UsageError
from flex_judge.judges.io.jsonl import Journal, read_object, read_rows, write_rows, write_text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def row(id: str, **fields: Any) -> dict[str, Any]:
    return {"id": id, **fields}


def test_journal_resumes_where_it_stopped(path: Path) -> None:
    with Journal(path) as journal:
        assert journal.rows == {}
        journal.append(row("a", score=1))
    with Journal(path) as journal:
        assert journal.rows == {"a": row("a", score=1)}
        journal.append(row("b", score=None))
        assert set(journal.rows) == {"a", "b"}
    assert list(read_rows(path)) == [row("a", score=1), row("b", score=None)]


def test_appended_row_is_in_the_file_at_once(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(row("a"))
        assert list(read_rows(path)) == [row("a")]


def test_last_row_with_an_id_wins(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(row("a", score=1))
        journal.append(row("a", score=2))
        assert journal.rows == {"a": row("a", score=2)}
    with Journal(path) as journal:
        assert journal.rows == {"a": row("a", score=2)}


@pytest.mark.parametrize("torn", [b"{", b'{"id": "c", "text": "half', b'{"id": "c", "text": "\xe2\x82', b"\0\0\0"])
def test_torn_last_line_is_removed(path: Path, torn: bytes) -> None:
    path.write_bytes(b'{"id": "a"}\n{"id": "b"}\n' + torn)
    with Journal(path) as journal:
        assert list(journal.rows) == ["a", "b"]
        journal.append(row("c"))
    assert path.read_bytes() == b'{"id": "a"}\n{"id": "b"}\n{"id": "c"}\n'


def test_file_with_only_a_torn_line_starts_over(path: Path) -> None:
    path.write_bytes(b'{"id": ')
    with Journal(path) as journal:
        assert journal.rows == {}
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{broken", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1, 2]", "expected a JSON object, got list"),
        (b'"text"', "expected a JSON object, got str"),
        (b"null", "expected a JSON object, got NoneType"),
    ],
)
def test_invalid_line_in_the_middle_is_reported_with_file_and_number(path: Path, line: bytes, why: str) -> None:
    path.write_bytes(b'{"id": "a"}\n\n' + line + b'\n{"id": "b"}\n')
    with pytest.raises(UsageError, match=rf"rows\.jsonl, line 3: {why}"):
        list(read_rows(path))
    with pytest.raises(UsageError, match="line 3"), Journal(path):
        pass
    assert b"\n" + line + b"\n" in path.read_bytes()


def test_row_without_id_is_reported_with_its_line(path: Path) -> None:
    path.write_text('{"id": "a"}\n{"name": "b"}\n')
    with pytest.raises(UsageError, match="line 2: field 'id' is missing"), Journal(path):
        pass


def test_missing_required_field_is_reported(path: Path) -> None:
    path.write_text('{"prompt": "q"}\n')
    assert list(read_rows(path, needed=("prompt",))) == [{"prompt": "q"}]
    with pytest.raises(UsageError, match="line 1: field 'responses' is missing"):
        list(read_rows(path, needed=("prompt", "responses")))


def test_unreadable_file_is_reported_by_name(tmp_path: Path) -> None:
    for missing in (tmp_path / "nothing.jsonl", tmp_path):
        with pytest.raises(UsageError, match=missing.name):
            list(read_rows(missing))
        with pytest.raises(UsageError, match=missing.name):
            read_object(missing)


def test_read_object_reads_a_whole_file(path: Path) -> None:
    path.write_text('{\n  "id": "a"\n}\n')
    assert read_object(path, needed=("id",)) == row("a")
    with pytest.raises(UsageError, match=r"rows\.jsonl: field 'score' is missing"):
        read_object(path, needed=("score",))


def test_row_that_cannot_be_serialized_leaves_the_journal_unchanged(path: Path) -> None:
    with Journal(path) as journal:
        journal.append(row("a"))
        with pytest.raises(UsageError, match="value: cannot be written as JSON: it is <object"):
            journal.append(row("b", value=object()))
        assert list(journal.rows) == ["a"]
        journal.append(row("c"))
    assert [r["id"] for r in read_rows(path)] == ["a", "c"]


@pytest.mark.parametrize(
    "text", ["\ud83d", "a \udcff b", "\ude00\ud83d", "naïve 🙂", "\u2028\u2029\x85\r\n\0\x1e", '"\\ud83d"']
)
def test_any_text_round_trips(path: Path, text: str) -> None:
    with Journal(path) as journal:
        journal.append(row("a", text=text))
    with Journal(path) as journal:
        assert journal.rows["a"]["text"] == text
    write_rows(path, [row("a", text=text)])
    assert next(read_rows(path))["text"] == text


@settings(deadline=None)
@given(st.lists(st.text(), max_size=5))
def test_file_has_one_line_per_row(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("journal") / "rows.jsonl"
    rows = [row(str(i), text=text) for i, text in enumerate(texts)]
    write_rows(path, rows)
    assert path.read_bytes().count(b"\n") == len(texts)
    assert list(read_rows(path)) == rows


def test_writing_a_file_is_atomic(path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        yield row("new")
        assert list(read_rows(path)) == [row("old")]
        raise RuntimeError("interrupted")

    write_rows(path, [row("old")])
    with pytest.raises(RuntimeError):
        write_rows(path, rows())
    assert list(read_rows(path)) == [row("old")]
    write_rows(path, [row("new")])
    assert list(read_rows(path)) == [row("new")]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_file_can_be_rewritten_from_its_own_rows(path: Path) -> None:
    write_rows(path, [row("a"), row("b")])
    write_rows(path, (r for r in read_rows(path) if r["id"] == "b"))
    assert list(read_rows(path)) == [row("b")]


def test_text_is_written_as_utf8(path: Path) -> None:
    write_text(path, "naïve\n")
    assert path.read_bytes() == "naïve\n".encode()
    assert json.dumps("naïve", ensure_ascii=False)[1:-1] == path.read_text(encoding="utf-8").strip()
