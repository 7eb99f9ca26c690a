"""A ledger names files that are none, damaged, or not to be written, and leaves them alone."""

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


def key_of(number: int) -> bytes:
    return compute_generation_key("scripted", "model", (number,), Sampling(64))


def generation_of(number: int) -> Generation:
    return Generation(f"reply {number} " + "x" * 200, tuple(range(number % 100)), "eos")


def refused(path: Path, read_only: bool = False) -> str:
    """The one line that opening the ledger fails with."""
    with pytest.raises(LedgerError) as caught:
        Ledger(path, read_only).close()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.mark.parametrize("content", [b"id,score\n" * 100, b"\0" * 5000, b"SQLite format 3\0" + b"?" * 5000])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_is_no_database_is_refused_and_left_alone(path: Path, content: bytes, read_only: bool) -> None:
    path.write_bytes(content)
    message = refused(path, read_only)
    assert "file is not a database" in message
    assert "move the file away, or use --no-ledger" in message
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_database_of_another_program_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE bookmarks (url)")
    db.close()
    content = path.read_bytes()
    assert "no ledger" in refused(path, read_only)
    assert path.read_bytes() == content


@pytest.mark.parametrize("read_only", [False, True])
def test_a_ledger_of_another_version_is_refused_and_left_alone(path: Path, read_only: bool) -> None:
    Ledger(path).close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    content = path.read_bytes()
    assert "version 99" in refused(path, read_only)
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_ledger_but_is_none_to_a_reader(path: Path) -> None:
    path.touch()
    assert "no ledger" in refused(path, read_only=True)
    with Ledger(path) as ledger:
        assert ledger.put(key_of(1), FULL) == FULL


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)
    assert "is a folder" in refused(tmp_path, read_only=True)


def test_a_reader_makes_no_file(path: Path) -> None:
    assert "no such ledger" in refused(path, read_only=True)
    assert list(path.parent.iterdir()) == []


def test_the_folder_of_a_ledger_is_made(tmp_path: Path) -> None:
    Ledger(tmp_path / "runs" / "today" / "ledger.sqlite").close()
    assert (tmp_path / "runs" / "today" / "ledger.sqlite").is_file()


def test_a_ledger_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "folder cannot be made" in refused(tmp_path / "file" / "ledger.sqlite")


def test_a_damaged_generation_is_an_error_and_no_miss(path: Path) -> None:
    ledger = Ledger(path)
    ledger.put(key_of(1), FULL)
    ledger.put(key_of(2), FULL)
    with sqlite3.connect(path) as db:
        value = db.execute("SELECT value FROM generations LIMIT 1").fetchone()[0]
    db.close()
    flipped = value[:20] + bytes([value[20] ^ 1]) + value[21:]
    for broken in (flipped, value[:-1], b"", b"text", zlib.compress(b"[1]"), zlib.compress(b"{}"), "text", 5):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE generations SET value = ? WHERE key = ?", (broken, key_of(1)))
        db.close()
        with pytest.raises(
            LedgerError, match=rf"ledger\.sqlite: the generation {key_of(1).hex()[:12]} .*damaged.*move"
        ):
            ledger.get(key_of(1))
        with pytest.raises(LedgerError, match="damaged"):
            ledger.put(key_of(1), FULL)
    assert ledger.get(key_of(2)) == FULL
    ledger.close()


def test_damaged_pages_are_an_error_and_stay_as_they_are(path: Path) -> None:
    with Ledger(path) as ledger:
        for number in range(500):
            ledger.put(key_of(number), generation_of(number))
    content = bytearray(path.read_bytes())
    content[8192:-4096] = b"\xa5" * len(content[8192:-4096])
    path.write_bytes(content)

    def use() -> None:
        with Ledger(path) as ledger:
            for number in range(500):
                assert ledger.get(key_of(number)) in (None, generation_of(number))
                ledger.put(key_of(number), generation_of(number))

    with pytest.raises(LedgerError, match=r"ledger\.sqlite: .*malformed.*move the file away"):
        use()
    assert path.read_bytes() == content


def test_a_file_that_was_cut_off_is_an_error(path: Path) -> None:
    with Ledger(path) as ledger:
        for number in range(500):
            ledger.put(key_of(number), generation_of(number))
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
    assert "malformed" in refused(path)
    assert "malformed" in refused(path, read_only=True)


# Where it cannot be written. In processes of their own: limits and users are theirs alone.


def _in_process(work: Any, *args: Any) -> str:
    """What `work(*args)` returns in a process of its own, as a user who is not root."""
    fork = multiprocessing.get_context("fork")
    theirs, ours = fork.Pipe()

    def run() -> None:
        if os.geteuid() == 0:
            os.setuid(65534)
        theirs.send(work(*args))

    process = fork.Process(target=run)
    process.start()
    assert ours.poll(30), "the process says nothing"
    said: str = ours.recv()
    process.join(30)
    return said


def _open(path: Path, read_only: bool = False) -> str:
    try:
        with Ledger(path, read_only) as ledger:
            return f"opened, holds {len(ledger)}"
    except LedgerError as e:
        return str(e)


def _fill(path: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    try:
        with Ledger(path) as ledger:
            for number in range(10_000):
                ledger.put(key_of(number), Generation(os.urandom(2000).hex(), (), "eos"))
    except LedgerError as e:
        return str(e)
    return "never full"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def test_a_folder_that_cannot_be_written_is_named(public: Path) -> None:
    public.chmod(0o555)
    message = _in_process(_open, public / "ledger.sqlite")
    assert message.startswith(f"{public / 'ledger.sqlite'}: its folder cannot be written")
    assert "--no-ledger" in message
    assert "its folder cannot be made (Permission denied)" in _in_process(_open, public / "new" / "ledger.sqlite")


def test_a_file_that_cannot_be_written_is_named_when_it_is_opened(public: Path) -> None:
    path = public / "ledger.sqlite"
    Ledger(path).close()
    path.chmod(0o444)
    assert f"{path}: it cannot be written" in _in_process(_open, path)


def test_a_ledger_can_be_read_where_nothing_can_be_written(public: Path) -> None:
    path = public / "ledger.sqlite"
    with Ledger(path) as ledger:
        ledger.put(key_of(1), FULL)
    path.chmod(0o444)
    public.chmod(0o555)
    assert _in_process(_open, path, True) == "opened, holds 1"


def test_a_file_that_cannot_be_read_is_named(public: Path) -> None:
    path = public / "ledger.sqlite"
    Ledger(path).close()
    path.chmod(0)
    for read_only in (False, True):
        assert _in_process(_open, path, read_only).startswith(f"{path}: ")


def test_a_full_disk_is_an_error_that_keeps_what_was_stored(public: Path) -> None:
    path = public / "ledger.sqlite"
    message = _in_process(_fill, path)
    assert message.startswith(f"{path}: the ledger cannot be used (")
    assert message.count("\n") == 0
    with Ledger(path) as ledger:
        assert 10 < len(ledger) < 10_000
        assert all(ledger.get(key_of(number)) for number in range(len(ledger)))
