"""The ledger rejects foreign, damaged and unwritable files by name, and leaves them unchanged."""

from __future__ import annotations

import multiprocessing
import os
import resource
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flex_judge.judges.engines.base import Generation, Sampling
from flex_judge.judges.engines.recording.ledger import Ledger, compute_generation_key
from flex_judge.judges.errors import LedgerError

FULL = Generation("4</answer>", (1, 2, 3), "stop", ({1: -0.1}, {}, {}), 800, 768)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def make_key(number: int) -> bytes:
    return compute_generation_key("scripted", "model", (number,), Sampling(64))


def make_generation(number: int) -> Generation:
    return Generation(f"reply {number} " + "x" * 200, tuple(range(number % 100)), "eos")


def get_open_error(path: Path, read_only: bool = False) -> str:
    """Return the one-line error of opening the ledger."""
    with pytest.raises(LedgerError) as caught:
        Ledger(path, read_only).close()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"id,score\n" * 100, b"\0" * 5000, b"SQLite format 3\0" + b"?" * 5000])
@pytest.mark.parametrize("read_only", [False, True])
def test_non_database_file_is_rejected_and_unchanged(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    message = get_open_error(path, read_only)
    assert "file is not a database" in message
    assert "move the file away, or use --no-ledger" in message
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("read_only", [False, True])
def test_foreign_database_is_rejected_and_unchanged(path: Path, read_only: bool) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    db.close()
    content = path.read_bytes()
    assert "not a ledger" in get_open_error(path, read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_ledger_of_another_version_is_rejected_and_unchanged(path: Path, read_only: bool) -> None:
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    content = path.read_bytes()
    assert "version 99" in get_open_error(path, read_only)
    assert path.read_bytes() == content


def test_empty_file_becomes_a_ledger_only_for_writers(path: Path) -> None:
    path.touch()
    assert "not a ledger" in get_open_error(path, read_only=True)
    with Ledger(path) as ledger:
        assert ledger.put(make_key(1), FULL) == FULL


def test_folder_is_rejected(tmp_path: Path) -> None:
    assert "is a folder" in get_open_error(tmp_path)
    assert "is a folder" in get_open_error(tmp_path, read_only=True)


def test_reader_creates_no_file(path: Path) -> None:
    assert "no such ledger" in get_open_error(path, read_only=True)
    assert list(path.parent.iterdir()) == []


def test_parent_folders_are_created(tmp_path: Path) -> None:
    Ledger(tmp_path / "runs" / "today" / "ledger.sqlite").close()
    assert (tmp_path / "runs" / "today" / "ledger.sqlite").is_file()


def test_path_below_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "folder cannot be created" in get_open_error(tmp_path / "file" / "ledger.sqlite")


def test_damaged_generation_raises_instead_of_missing(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put(make_key(1), FULL)
    ledger.put(make_key(2), FULL)
    with sqlite3.connect(path) as db:
        value = db.execute("SELECT value FROM generations LIMIT 1").fetchone()[0]
    db.close()
    flipped = value[:20] + bytes([value[20] ^ 1]) + value[21:]
    for broken in (flipped, value[:-1], b"", b"text", zlib.compress(b"[1]"), zlib.compress(b"{}"), "text", 5):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE generations SET value = ? WHERE key = ?", (broken, make_key(1)))
        db.close()
        with pytest.raises(LedgerError, match=rf"ledger\.sqlite: generation {make_key(1).hex()[:12]} .*damaged.*move"):
            ledger.get(make_key(1))
        with pytest.raises(LedgerError, match="damaged"):
            ledger.put(make_key(1), FULL)
    assert ledger.get(make_key(2)) == FULL
    ledger.close()


def test_damaged_pages_raise_and_are_unchanged(path: Path) -> None:
    with Ledger(path) as ledger:
        for number in range(500):
            ledger.put(make_key(number), make_generation(number))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xa5" * len(content[8192:-4096])
    path.write_bytes(content)

    def use_ledger() -> None:
        with Ledger(path) as ledger:
            for number in range(500):
                assert ledger.get(make_key(number)) in (None, make_generation(number))
                ledger.put(make_key(number), make_generation(number))

    with pytest.raises(LedgerError, match=r"ledger\.sqlite: .*malformed.*move the file away"):
        use_ledger()
    assert path.read_bytes() == content


def test_truncated_file_is_an_error(path: Path) -> None:
    with Ledger(path) as ledger:
        for number in range(500):
            ledger.put(make_key(number), make_generation(number))
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert "malformed" in get_open_error(path)
    assert "malformed" in get_open_error(path, read_only=True)


# Missing permissions and full disks. These run in separate processes, whose user and limits can be changed.


def _run_in_process(work: Any, *args: Any) -> str:
    """Return `work(*args)`, run in another process as a user other than root."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe()

    def run() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        sender.send(work(*args))

    process = fork.Process(target=run)
    process.start()
    assert receiver.poll(30), "the process sent no result"
    result: str = receiver.recv()
    process.join(30)
    return result


def _try_open(path: Path, read_only: bool = False) -> str:
    try:
        with Ledger(path, read_only) as ledger:
            return f"opened, holds {len(ledger)}"
    except LedgerError as e:
        return str(e)


def _fill_disk(path: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        with Ledger(path) as ledger:
            for number in range(10_000):
                ledger.put(make_key(number), Generation(os.urandom(2000).hex(), (), "eos"))
    except LedgerError as e:
        return str(e)
    return "never full"


@pytest.fixture
def public() -> Iterator[Path]:
    """Create a folder that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_unwritable_folder_is_named_in_the_error(public: Path) -> None:
    public.chmod(0o555)
    message = _run_in_process(_try_open, public / "ledger.sqlite")
    assert message.startswith(f"{public / 'ledger.sqlite'}: its folder cannot be written")
    assert "--no-ledger" in message
    assert "its folder cannot be created (Permission denied)" in _run_in_process(
        _try_open, public / "new" / "ledger.sqlite"
    )


def test_unwritable_file_is_named_in_the_error(public: Path) -> None:
    path = public / "ledger.sqlite"
    Ledger(path).close()
    path.chmod(0o444)
    assert f"{path}: the file cannot be written" in _run_in_process(_try_open, path)


def test_ledger_in_a_read_only_folder_can_be_read(public: Path) -> None:
    path = public / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.put(make_key(1), FULL)
    path.chmod(0o444)
    public.chmod(0o555)
    assert _run_in_process(_try_open, path, True) == "opened, holds 1"


def test_unreadable_file_is_named_in_the_error(public: Path) -> None:
    path = public / "ledger.sqlite"
    Ledger(path).close()
    path.chmod(0)
    for read_only in (False, True):
        assert _run_in_process(_try_open, path, read_only).startswith(f"{path}: ")


def test_full_disk_raises_and_keeps_stored_generations(public: Path) -> None:
    path = public / "ledger.sqlite"
    message = _run_in_process(_fill_disk, path)
    assert message.startswith(f"{path}: the ledger cannot be used (")
    assert message.count("\n") == 0
    with Ledger(path) as ledger:
        assert 10 < len(ledger) < 10_000
        assert all(ledger.get(make_key(number)) for number in range(len(ledger)))
