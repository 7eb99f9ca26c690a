"""Output file of `flex-judge judge`, which lets the same command resume after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table, require_rows, write_table
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.judgments import Judgment, Status

ENDINGS = (".jsonl", ".parquet")
RETRIED_STATUSES = (Status.OVERLONG, Status.INVALID_INPUT)
"""Final statuses that are tried again: neither the model's context length nor the state of a file is part of a key."""
_REQUIRED_KEYS = {"id", "status", "votes", "provenance"}
_ROW_PREFIX = b'{"id": '  # how every row of a judgment starts, see Judgment.to_json


class JudgmentFile:
    """Open file of judgments, see `open_judgment_file`."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self.path = path
        self._journal = journal

    @property
    def log_path(self) -> Path:
        """Log of library output and of rows that could not be judged."""
        return self.path.with_name(self.path.name + ".log")

    def find_final_judgment(self, id: str, key: str) -> Judgment | None:
        """Find the judgment of an earlier run; None if it is missing or if a retry may succeed.

        Args:
            id: Id of the comparison.
            key: Key of the comparison and its judge, see `FlexJudge.compute_key`.
        """
        row = self._journal.rows.get(id)
        if row is None or row["provenance"].get("key") != key:
            return None
        judgment = Judgment.from_json(row)
        statuses = {judgment.status, *(vote.status for vote in judgment.votes)}
        return judgment if all(s.is_final and s not in RETRIED_STATUSES for s in statuses) else None

    def add(self, judgment: Judgment) -> None:
        """Append a judgment, so that it survives a crash of this process."""
        self._journal.append(judgment.to_json())

    def finish(self, judgments: Sequence[Judgment], missing: Collection[str] = ()) -> None:
        """Rewrite the file with the judgments in this order, then stored judgments of rows that have none in this run.

        A replay has no judgment of a row that is not recorded, and an earlier run may have one.
        """
        stored = [self._journal.rows[row_id] for row_id in missing if row_id in self._journal.rows]
        # The journal has judgments in the order of completion, and may have several of one comparison.
        write_table(self.path, [*(judgment.to_json() for judgment in judgments), *stored])
        if self._journal.path != self.path:
            self._journal.path.unlink()


@contextmanager
def open_judgment_file(path: Path, ids: Collection[str]) -> Iterator[JudgmentFile]:
    """Open and lock the file of a run's judgments.

    Judgments are appended to the file itself. Parquet can only be written as a whole, so for Parquet they are appended
    to a JSON lines file next to it until the run is finished.

    Args:
        path: A `.jsonl` or `.parquet` file; created with its folder if it does not exist.
        ids: Ids of all comparisons of the run.

    Yields:
        The open file.

    Raises:
        UsageError: The file cannot be written, is in use, or holds anything other than judgments of these comparisons.
            It is left unchanged.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"--out {path}: expected a file that ends in {' or '.join(ENDINGS)}")
    journal_path = path.with_name(path.name + ".jsonl") if path.suffix == ".parquet" else path
    finished_rows = _read_finished_rows(path, ids) if path != journal_path and path.exists() else {}
    with _lock_file(journal_path):
        try:
            _check_first_line(journal_path)
            with Journal(journal_path) as journal:
                _check_rows(journal_path, journal.rows, ids)
                # A journal next to a finished Parquet file is newer than the file.
                journal.rows = finished_rows | journal.rows
                yield JudgmentFile(path, journal)
        except BaseException:
            # _lock_file created the file; a failed run without a judgment leaves nothing behind.
            if journal_path.exists() and not journal_path.stat().st_size:
                journal_path.unlink()
            raise


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Lock a file against other processes; create it if it does not exist."""
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
        # The other process may have replaced the file between our open and our lock; we then hold a deleted file.
        if not path.exists() or os.fstat(file.fileno()).st_ino != path.stat().st_ino:
            raise UsageError(f"{path}: another process has just finished it; run the same command again")
        yield


def _read_finished_rows(path: Path, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """Read the judgments of a finished file, by id."""
    table = [row for _, row in require_rows(read_table(path))]
    if any(not isinstance(row.get("id"), str) for row in table):
        raise _make_foreign_file_error(path)
    rows = {row["id"]: dict(row) for row in table}
    _check_rows(path, rows, ids)
    return rows


def _check_first_line(path: Path) -> None:
    """Reject a file of anything other than judgments.

    Must run before `Journal` opens the file, because `Journal` cuts off an incomplete last line.
    """
    with path.open("rb") as file:
        first = file.readline()
    if not first.strip(b"\0"):  # empty; a power cut can also leave a line of null bytes
        return
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        # An incomplete line is accepted if it can be the start of a judgment.
        if first.endswith(b"\n") or not (first.startswith(_ROW_PREFIX) or _ROW_PREFIX.startswith(first)):
            raise _make_foreign_file_error(path) from None
        return
    if not isinstance(row, dict) or not row.keys() >= _REQUIRED_KEYS:
        raise _make_foreign_file_error(path)


def _check_rows(path: Path, rows: Mapping[str, Mapping[str, Any]], ids: Collection[str]) -> None:
    for row_id, row in rows.items():
        if not row.keys() >= _REQUIRED_KEYS or not isinstance(row["provenance"], dict):
            raise _make_foreign_file_error(path)
        # A row that could not be read may have got its id, or another one, when it was corrected, or be deleted.
        if row_id not in ids and row["status"] != Status.INVALID_INPUT:
            raise UsageError(f"{path}: holds a judgment of {row_id!r}, which is not in this run; choose another --out")


def _make_foreign_file_error(path: Path) -> UsageError:
    return UsageError(f"{path}: holds something other than judgments; choose another --out")
