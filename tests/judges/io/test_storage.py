"""Files that cannot be written: one line that names the file, nothing half-written, and a run that resumes."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from disk import limit_file_size

from flex_judge.judges.errors import StorageError
from flex_judge.judges.io.files import write_table
from flex_judge.judges.io.jsonl import Journal, read_rows, write_lines, write_rows, write_text
from flex_judge.judges.io.storage import find_storage_error

ROWS = [{"id": str(i), "text": "é" * 40} for i in range(50)]


def append_missing_rows(path: Path) -> None:
    with Journal(path) as journal:
        assert [row["id"] for row in journal.rows.values()] == [row["id"] for row in ROWS[: len(journal.rows)]]
        for row in ROWS[len(journal.rows) :]:
            journal.append(row)


@pytest.mark.parametrize("size", [0, 1, 100, 1000, 1003, 4097])
def test_journal_on_a_full_disk_keeps_complete_rows_and_resumes_identically(tmp_path: Path, size: int) -> None:
    path, reference = tmp_path / "rows.jsonl", tmp_path / "reference.jsonl"
    append_missing_rows(reference)
    with limit_file_size(size), pytest.raises(StorageError, match=r"rows\.jsonl: cannot be written"):
        append_missing_rows(path)
    assert path.read_bytes() == b"" or path.read_bytes().endswith(b"\n")
    append_missing_rows(path)
    assert path.read_bytes() == reference.read_bytes()


def test_journal_goes_on_once_there_is_space(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with Journal(path) as journal:
        journal.append(ROWS[0])
        with limit_file_size(150), pytest.raises(StorageError):
            journal.append(ROWS[1])
        for row in ROWS[1:]:
            journal.append(row)
    assert [row["id"] for row in read_rows(path)] == [row["id"] for row in ROWS]


def test_failed_replacement_leaves_the_old_file_and_no_part_of_the_new_one(tmp_path: Path) -> None:
    path, table = tmp_path / "a.jsonl", tmp_path / "a.parquet"
    write_text(path, "old")
    write_table(table, ROWS[:1])
    old_table = table.read_bytes()
    for write in (write_rows, write_lines, write_table):
        with limit_file_size(1000), pytest.raises(StorageError) as error:
            write(path, ROWS)
        assert str(error.value).startswith(f"{path}: cannot be written (File too large); raise the limit")
        assert "\n" not in str(error.value)
    with limit_file_size(1000), pytest.raises(StorageError):
        write_text(path, "x" * 2000)
    with limit_file_size(300), pytest.raises(StorageError):
        write_table(table, [{"id": str(i), "text": str(i) * 50} for i in range(100)])
    assert path.read_text() == "old"
    assert table.read_bytes() == old_table
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.jsonl", "a.parquet"]


def test_removed_folder_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.rmtree(folder)
    with pytest.raises(StorageError, match="create its folder again"):
        write_text(folder / "summary.json", "{}")
    with pytest.raises(StorageError, match="create its folder again"), Journal(folder / "rows.jsonl"):
        pass


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "model.bin"), "model.bin: cannot be written (No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file: cannot be written (Disk quota exceeded"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device"),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file"),
            "No space",
        ),
    ],
)
def test_recognizes_full_disks_in_the_errors_of_libraries(error: Exception, problem: str) -> None:
    for chained in (error, _chain(error)):
        storage_error = find_storage_error(chained)
        assert storage_error is not None
        assert problem in str(storage_error)


@pytest.mark.parametrize(
    "error", [ValueError("model is full"), FileNotFoundError(errno.ENOENT, "No such file", "x"), KeyError("a")]
)
def test_leaves_other_errors_alone(error: Exception) -> None:
    assert find_storage_error(error) is None
    assert find_storage_error(_chain(error)) is None


def _chain(error: Exception) -> Exception:
    try:
        raise RuntimeError("saving failed") from error
    except RuntimeError as e:
        return e
