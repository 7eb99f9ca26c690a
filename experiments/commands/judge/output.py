"""Output file of `flex-judge judge`, which lets the same command resume after a crash."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.command_line import get_command
from flex_judge.experiments.common.run_folder import write_page
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.comparison_rows import COMPARISON, read_comparison_json
from flex_judge.judges.io.files import read_table, require_rows, write_table
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import Journal, write_text
from flex_judge.judges.judgments import Judgment, Status

ENDINGS = (".jsonl", ".parquet")
PAGE_ENDING = ".html"
"""Ending, after the name of the file of judgments, of its page."""
RECORD_ENDING = ".run.json"
"""Ending, after the name of the file of judgments, of the record of its run."""
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

    @property
    def page_path(self) -> Path:
        """Page of the run."""
        return self.path.with_name(self.path.name + PAGE_ENDING)

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

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of a judgment, so that it survives a crash of this process."""
        self._journal.append(row)

    def finish(self, judgments: Sequence[Judgment], missing: Collection[str] = ()) -> list[dict[str, Any]]:
        """Rewrite the file with the judgments in this order, then stored judgments of rows that have none in this run.

        A replay has no judgment of a row that is not recorded, and an earlier run may have one.

        Returns:
            The rows of the judgments.
        """
        new_rows = [judgment.to_json() | self._find_comparison(judgment.id) for judgment in judgments]
        rows = new_rows + [self._journal.rows[row_id] for row_id in missing if row_id in self._journal.rows]
        if self.path.suffix == ".parquet":
            rows = [_encode_comparison(row) for row in rows]
        # The journal has judgments in the order of completion, and may have several of one comparison.
        write_table(self.path, rows)
        if self._journal.path != self.path:
            self._journal.path.unlink()
        return new_rows

    def _find_comparison(self, id: str) -> dict[str, Any]:
        comparison = read_comparison_json(self._journal.rows.get(id, {}))
        return {COMPARISON: comparison} if comparison else {}


def _encode_comparison(row: dict[str, Any]) -> dict[str, Any]:
    """Write the comparison of a row as JSON text: the parts of messages have no common type, as Parquet needs."""
    comparison = read_comparison_json(row)
    return {**row, COMPARISON: dump_json(comparison)} if comparison else row


@contextmanager
def open_judgment_file(path: Path, ids: Collection[str], num_unreadable: int = 0) -> Iterator[JudgmentFile]:
    """Open and lock the file of a run's judgments.

    Judgments are appended to the file itself. Parquet can only be written as a whole, so for Parquet they are appended
    to a JSON lines file next to it until the run is finished.

    Args:
        path: A `.jsonl` or `.parquet` file; created with its folder if it does not exist.
        ids: Ids of all comparisons of the run.
        num_unreadable: Number of rows of the run whose own id may not be readable. So many judgments of unknown ids are
            accepted, and left out of the finished file.

    Yields:
        The open file.

    Raises:
        UsageError: The file cannot be written, is in use, or holds anything other than judgments of these comparisons.
            It is left unchanged.
    """
    if path.suffix not in ENDINGS:
        raise UsageError(f"--out {path}: expected a file that ends in {' or '.join(ENDINGS)}")
    journal_path = path.with_name(path.name + ".jsonl") if path.suffix == ".parquet" else path
    finished_rows = _read_finished_rows(path, ids, num_unreadable) if path != journal_path and path.exists() else {}
    with _lock_file(journal_path):
        try:
            _check_first_line(journal_path)
            with Journal(journal_path) as journal:
                _check_rows(journal_path, journal.rows, ids, num_unreadable)
                # A journal next to a finished Parquet file is newer than the file.
                journal.rows = finished_rows | journal.rows
                yield JudgmentFile(path, journal)
        except BaseException:
            # _lock_file created the file; a failed run without a judgment leaves nothing behind.
            if journal_path.exists() and not journal_path.stat().st_size:
                journal_path.unlink()
            raise


@contextmanager
def record_run(path: Path, settings: Mapping[str, Any], count: int) -> Iterator[None]:
    """Record a run next to its file of judgments, and write its page when it ends, finished or not.

    Args:
        path: file of judgments.
        settings: settings of the run, for the page.
        count: number of comparisons.
    """
    record = {"kind": "judge", "settings": settings, "expected": {"count": count, "noun": "comparison"}}
    record |= {"command": get_command()} if get_command() else {}

    def save_record(is_finished: bool) -> None:
        file = path.with_name(path.name + RECORD_ENDING)
        write_text(file, dump_json({**record, "is_finished": is_finished}, indent=2) + "\n")

    tables = [path, path.with_name(path.name + ".jsonl")]
    try:
        save_record(False)
        yield
        save_record(True)
    except BaseException:
        if any(table.is_file() and table.stat().st_size for table in tables):
            write_page(path, tables, is_stopped=True)
        else:
            path.with_name(path.name + RECORD_ENDING).unlink(missing_ok=True)
        raise
    write_page(path, tables, is_stopped=False)


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


def _read_finished_rows(path: Path, ids: Collection[str], num_unreadable: int) -> dict[str, dict[str, Any]]:
    """Read the judgments of a finished file, by id."""
    table = [row for _, row in require_rows(read_table(path))]
    if any(not isinstance(row.get("id"), str) for row in table):
        raise _make_foreign_file_error(path)
    rows = {row["id"]: dict(row) for row in table}
    _check_rows(path, rows, ids, num_unreadable)
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


def _check_rows(path: Path, rows: Mapping[str, Mapping[str, Any]], ids: Collection[str], num_unreadable: int) -> None:
    unknown_ids = []
    for row_id, row in rows.items():
        if not row.keys() >= _REQUIRED_KEYS or not isinstance(row["provenance"], dict):
            raise _make_foreign_file_error(path)
        # A row that could not be read had its number as its id, and has its own id once it is mended.
        if row_id not in ids and row["status"] != Status.INVALID_INPUT:
            unknown_ids.append(row_id)
    if len(unknown_ids) > num_unreadable:
        raise UsageError(
            f"{path}: holds a judgment of {unknown_ids[0]!r}, which is not in this run; choose another --out"
        )


def _make_foreign_file_error(path: Path) -> UsageError:
    return UsageError(f"{path}: holds something other than judgments; choose another --out")
