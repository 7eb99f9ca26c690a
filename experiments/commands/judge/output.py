"""The file of judgments that `flex-judge judge` writes: after a crash, the same command goes on from it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table, write_table
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.judgments import Judgment, Status

ENDINGS = (".jsonl", ".parquet")
_REQUIRED_KEYS = {"id", "status", "votes", "provenance"}
_ROW_PREFIX = b'{"id": '  # of every row that a judgment is written as


class JudgmentFile:
    """An open file of judgments; made by `opened`."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal

    @property
    def log_path(self) -> Path:
        """Where what libraries print goes, and what was not judged."""
        return self.path.with_name(self.path.name + ".log")

    def find_final_judgment(self, id: str, key: str) -> Judgment | None:
        """What an earlier run made of the same comparison, unless another try may end otherwise.

        Args:
            id: of the comparison.
            key: of the comparison and its judge, see `FlexJudge.key`.
        """
        row = self._journal.rows.get(id)
        if row is None or row["provenance"].get("key") != key:
            return None
        judgment = Judgment.from_json(row)
        # Whether a prompt is too long depends on the model's context, which is no part of the key.
        statuses = {judgment.status, *(vote.status for vote in judgment.votes)}
        return judgment if all(s.is_final and s != Status.OVERLONG for s in statuses) else None

    def add(self, judgment: Judgment) -> None:
        """Put a judgment into the file; the death of this process does not lose it."""
        self._journal.append(judgment.to_json())

    def finish(self, judgments: Sequence[Judgment], lost: Collection[str] = ()) -> None:
        """Make these the file's content, in this order, then what earlier runs made of rows that are lost in this one:
        an image that cannot be read today takes nothing away."""
        earlier = [self._journal.rows[name] for name in lost if name in self._journal.rows]
        write_table(self.path, [*(judgment.to_json() for judgment in judgments), *earlier])
        if self._journal.path != self.path:
            self._journal.path.unlink()


@contextmanager
def open_judgment_file(path: Path, ids: Collection[str]) -> Iterator[JudgmentFile]:
    """Open the file of a run's judgments, for this process alone.

    Judgments are put one by one into the file itself, or, as Parquet can only be written as a whole, into a file of
    JSON lines beside it, until it is finished.

    Args:
        path: a `.jsonl` or `.parquet` file; it and its folder are made.
        ids: of all comparisons of the run.

    Raises:
        UsageError: it cannot be written, is in use, or holds something else than judgments of these comparisons. What
            it holds is then as it was.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"--out {path}: expected a file that ends in {' or '.join(ENDINGS)}")
    working = path.with_name(path.name + ".jsonl") if path.suffix == ".parquet" else path
    rows = _read_finished_rows(path, ids) if path != working and path.exists() else {}
    with _lock_file(working):
        try:
            _check_first_line(working)
            with Journal(working) as journal:
                _check_rows(working, journal.rows, ids)
                journal.rows = rows | journal.rows
                yield JudgmentFile(path, journal)
        except BaseException:
            if working.exists() and not working.stat().st_size:  # made by us, for nothing
                working.unlink()
            raise


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Hold a file, made where there is none, for this process alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}; choose another --out") from e
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            raise UsageError(f"{path}: is in use by another process; wait for it, or choose another --out") from e
        if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise UsageError(f"{path}: another process has just finished it; run the same again")
        yield


def _read_finished_rows(path: Path, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The judgments of a finished file."""
    found = [row for _, row in read_table(path)]
    if any(not isinstance(row.get("id"), str) for row in found):
        raise _make_foreign_file_error(path)
    rows = {row["id"]: row for row in found}
    _check_rows(path, rows, ids)
    return rows


def _check_first_line(path: Path) -> None:
    """Refuse a file that is not ours before a `Journal` cuts off what seems to be half a line of ours."""
    with path.open("rb") as file:
        first = file.readline()
    if not first.strip(b"\0"):  # empty, or what a power cut leaves of a first line
        return
    try:
        row = json.loads(first)
    except ValueError:
        # Half a line, and of a judgment as far as it goes.
        if first.endswith(b"\n") or not (first.startswith(_ROW_PREFIX) or _ROW_PREFIX.startswith(first)):
            raise _make_foreign_file_error(path) from None
        return
    if not isinstance(row, dict) or not row.keys() >= _REQUIRED_KEYS:
        raise _make_foreign_file_error(path)


def _check_rows(path: Path, rows: Mapping[str, Mapping[str, Any]], ids: Collection[str]) -> None:
    for name, row in rows.items():
        if not row.keys() >= _REQUIRED_KEYS or not isinstance(row["provenance"], dict):
            raise _make_foreign_file_error(path)
        if name not in ids:
            raise UsageError(f"{path}: holds a judgment of {name!r}, which is not judged here; choose another --out")


def _make_foreign_file_error(path: Path) -> UsageError:
    return UsageError(f"{path}: holds something else than judgments; choose another --out")
