"""Crash-safe JSON lines files: rows are appended one by one, and read again when a run resumes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from flex_judge.judges.io.json_rows import is_blank, parse_object
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.storage import explain_write_errors
from flex_judge.judges.validation.text_files import iter_lines

SURROGATES = "backslashreplace"
"""Error handler for lone surrogates, which UTF-8 cannot encode. The result, e.g. `\\ud83d`, is their JSON escape."""


def read_rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Read the rows of a JSON lines file; empty lines are skipped.

    Args:
        path: the file.
        needed: fields that every row must have.

    Yields:
        Each row as a dictionary.

    Raises:
        UsageError: the file cannot be read, or a line is not a JSON object with the needed fields; the message names
            file and line.
    """
    for number, line in enumerate(iter_lines(path), 1):
        if not is_blank(line):
            # Own files nest the values of users deeper than these did, so the depth is not limited again.
            yield parse_object(line, f"{path}, line {number}", needed, max_depth=None)


def read_object(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file that contains a single JSON object.

    Args:
        path: the file.
        needed: fields that the object must have.

    Raises:
        UsageError: the file cannot be read, or does not contain a JSON object with the needed fields.
    """
    return parse_object(b"".join(iter_lines(path)), str(path), needed, max_depth=None)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON lines file atomically. All rows are serialised first, so an invalid row leaves no partial file."""
    write_text(path, "".join(_format_line(row) for row in rows))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON lines file atomically, like `write_rows`, without holding all rows in memory."""
    with replace_file(path) as partial, partial.open("w", encoding="utf-8", errors=SURROGATES) as file:
        file.writelines(map(_format_line, rows))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: readers see the old file or the new one, never a part."""
    with replace_file(path) as partial:
        partial.write_text(text, encoding="utf-8", errors=SURROGATES)


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Replace a file atomically: yield the path of a new file, and rename that one after the block.

    Raises:
        StorageError: the new file cannot be written. It is removed, and the old file is unchanged.
    """
    # Renaming a complete file is atomic; a crash leaves at most a file with the suffix .partial.
    partial = path.with_name(path.name + ".partial")
    with explain_write_errors(path):
        try:
            yield partial
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()  # a part of a file would only keep the disk full
            raise


class Journal:
    """Append-only JSON lines file of rows with an `id`. Opening it removes a last line that a crash left incomplete.

    Args:
        path: the file; it is created on entering the context if it does not exist.

    Example:
        >>> with Journal(Path("judgments.jsonl")) as journal:
        ...     todo = [c for c in comparisons if c.id not in journal.rows]
        ...     journal.append({"id": todo[0].id})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        """Rows by id; if several rows have the same id, the last one."""

    def __enter__(self) -> Journal:
        if self.path.exists():
            _drop_torn_line(self.path)
            self.rows = {row["id"]: row for row in read_rows(self.path, needed=("id",))}
        with explain_write_errors(self.path):
            # Unbuffered: a buffer would keep a row that could not be written, and write it at some later time.
            self._file = self.path.open("ab", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Append a row and pass it to the operating system, so that it survives the death of this process.

        Raises:
            StorageError: the row cannot be written. The file holds the rows before it.
        """
        line = _format_line(row).encode(errors=SURROGATES)  # Formatted first, so invalid rows write nothing.
        with explain_write_errors(self.path):
            start = os.fstat(self._file.fileno()).st_size
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
            except BaseException:
                with suppress(OSError):  # what cannot be cut off now is cut off when the file is opened again
                    self._file.truncate(start)
                raise
        self.rows[row["id"]] = dict(row)


def _format_line(row: Mapping[str, Any]) -> str:
    return dump_json(row) + "\n"


def _drop_torn_line(path: Path) -> None:
    """Remove text after the last line break, which is a row that was not completely written."""
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with explain_write_errors(path):
            os.truncate(path, end)
