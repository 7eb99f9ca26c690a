"""JSON lines files that survive being interrupted: rows are appended as they are made, and read back to resume."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flex_judge.judges.errors import UsageError

SURROGATES = "backslashreplace"  # half a surrogate pair is no UTF-8, but its backslash form is what JSON calls it


def read_rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """The rows of a JSON lines file, each a JSON object with at least the `needed` fields.

    Raises:
        UsageError: the file cannot be read, or a line is not such an object; the message names file and line.
    """
    try:
        file = path.open("rb")
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    with file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _parse_object(line, needed, f"{path}, line {number}")


def read_object(path: Path, needed: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object that a whole file holds. Raises UsageError as `read_rows` does."""
    try:
        return _parse_object(path.read_bytes(), needed, str(path))
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e


def _parse_object(text: bytes, needed: Sequence[str], where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as e:  # JSONDecodeError and UnicodeDecodeError are both
        raise UsageError(f"{where}: not JSON ({getattr(e, 'msg', e)}); mend or delete it") from e
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a JSON object, got {type(value).__name__}")
    for name in needed:
        if name not in value:
            raise UsageError(f"{where}: field {name!r} is missing")
    return value


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole JSON lines file at once, see `write_text`."""
    write_text(path, "".join(_format_line(row) for row in rows))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """As `write_rows`, without holding the rows in memory."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", errors=SURROGATES) as file:
        file.writelines(map(_format_line, rows))
    partial.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole file at once: a reader sees the old one or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors=SURROGATES)
    partial.replace(path)


class Journal:
    """An append-only file of rows with an `id`. What a crash leaves half written is cut off when it is opened again.

    Example:
        >>> with Journal(Path("judgments.jsonl")) as journal:
        ...     todo = [c for c in comparisons if c.id not in journal.rows]
        ...     journal.append({"id": todo[0].id})
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        """Every row so far by its id; of rows with one id, the last."""

    def __enter__(self) -> Journal:
        if self.path.exists():
            _drop_torn_line(self.path)
            self.rows = {row["id"]: row for row in read_rows(self.path, needed=("id",))}
        self._file = self.path.open("a", encoding="utf-8", errors=SURROGATES)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is with the operating system when this returns, so the death of this process loses nothing."""
        self._file.write(_format_line(row))
        self._file.flush()
        self.rows[row["id"]] = dict(row)


def _format_line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _drop_torn_line(path: Path) -> None:
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        os.truncate(path, end)
