"""Parsing of JSON objects in files that users give, one by one, so that an invalid object costs only its row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.validation.json_structure import RepeatedKeyError, is_deeper, make_unique_object
from flex_judge.judges.validation.text_files import BOM, iter_lines

MAX_DEPTH = 100
"""Maximum number of nested lists and objects in a row. Deeper values would exhaust the stack of later steps."""

LocatedRow = tuple[str, Mapping[str, Any] | UsageError]
"""File and row of a row, for messages, and the row or the error that describes why it cannot be read."""

NeedsColumn = Callable[[str], bool]
"""Function that returns whether a column is needed. The others are None in the rows of a table with columns."""


class TextRow(dict[str, Any]):
    """Row of a delimited table, whose cells are all text; see `flex_judge.judges.io.columns.read_cells`."""


def need_all(_: str) -> bool:
    """Return True for every column."""
    return True


def is_row_id(value: Any) -> bool:
    """Return whether a value can be the id of a row: a text that is not empty, or a whole number."""
    return isinstance(value, str | int) and not isinstance(value, bool) and value != ""


class UnreadableRowError(UsageError):
    """Row with values that cannot be read. The other values are in `data`."""

    where: str = ""
    """File and row."""
    data: Mapping[str, Any] = {}
    """Fields that can be read; the others are None."""
    problems: Mapping[str, str] = {}
    """Problem of each field that cannot be read."""

    @classmethod
    def from_fields(cls, where: str, data: Mapping[str, Any], problems: Mapping[str, str]) -> UnreadableRowError:
        """Create the error of a row; its message names the first field that cannot be read."""
        name, problem = next(iter(problems.items()))
        error = cls(f"{where}, field {name!r}: cannot be read: {problem}")
        error.where, error.data, error.problems = where, data, problems
        return error


class PartialRow(dict[str, Any]):
    """Row in which fields that cannot be read raise UsageError when they are accessed.

    Args:
        error: error of the row.
    """

    def __init__(self, error: UnreadableRowError) -> None:
        super().__init__(error.data)
        self._where, self._problems = error.where, error.problems

    def __getitem__(self, name: str) -> Any:
        self._check(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field, or a default value if the row does not have it."""
        self._check(name)
        return super().get(name, default)

    def _check(self, name: str) -> None:
        if name in self._problems:
            raise UnreadableRowError.from_fields(self._where, {}, {name: self._problems[name]})


def parse_object(
    text: bytes, where: str, needed: Sequence[str] = (), max_depth: int | None = MAX_DEPTH
) -> dict[str, Any]:
    """Parse a JSON object.

    NaN and infinities, which some programs write, become floats.

    Args:
        text: JSON in UTF-8.
        where: file and line for error messages.
        needed: fields that the object must have.
        max_depth: maximum depth of nested lists and objects; None for any that can be parsed.

    Raises:
        UsageError: the text is not a JSON object with the needed fields, or an object in it has a field twice.
    """
    try:
        value = _load(text)
    except RepeatedKeyError as e:
        raise UsageError(f"{where}, field {e.key!r}: occurs twice in the same object; remove one") from e
    except RecursionError as e:
        raise UsageError(_describe_depth(where, max_depth)) from e
    except ValueError as e:  # JSONDecodeError, UnicodeDecodeError, or a whole number of too many digits
        raise UsageError(f"{where}: not JSON ({to_one_line(getattr(e, 'msg', e))}); fix or delete it") from e
    if not isinstance(value, dict):
        hint = "; a file that holds a list of rows ends in .json" if isinstance(value, list) else ""
        raise UsageError(f"{where}: expected a JSON object, got {type(value).__name__}{hint}")
    if max_depth is not None and text.count(b"{") + text.count(b"[") > max_depth and is_deeper(value, max_depth):
        raise UsageError(_describe_depth(where, max_depth))
    for name in needed:
        if name not in value:
            raise UsageError(f"{where}: field {name!r} is missing")
    return value


def parse_row(text: bytes, where: str) -> LocatedRow:
    """Parse a JSON object; its error is returned instead of raised."""
    try:
        return where, parse_object(text, where)
    except UsageError as e:
        return where, e


def read_json_lines(path: Path, name: str | None = None, unit: Literal["row", "line"] = "row") -> Iterator[LocatedRow]:
    """Read the rows of a JSON lines file; empty lines are skipped.

    Args:
        path: the file.
        name: name of the file for messages; None for its path.
        unit: what the location of a row counts: `row` or `line`.

    Yields:
        Each row, or the error of an invalid line. If the rest of the file cannot be decompressed, that is the last one.

    Raises:
        UsageError: the file cannot be read at all.
    """
    name = name or str(path)
    for row_number, line_number, line in iterate_row_lines(path):
        where = f"{name}, {unit} {row_number if unit == 'row' else line_number}"
        if isinstance(line, UsageError):
            yield describe_damage(where, line)
        else:
            # A broken line is easier to find by its line number.
            yield where, parse_row(line, f"{name}, line {line_number}")[1]


def iterate_row_lines(path: Path) -> Iterator[tuple[int, int, bytes | UsageError]]:
    """Yield the number of each row, its line number, and the line, or the error that ends the file early."""
    rows, lines = 0, 0
    try:
        for line in iter_lines(path):
            lines += 1
            if not is_blank(line):
                rows += 1
                yield rows, lines, line
    except UsageError as e:
        if not lines:
            raise
        yield rows + 1, lines + 1, e


def describe_damage(where: str, error: UsageError) -> LocatedRow:
    """Return the row at which a file ends early, as an error."""
    return where, UsageError(f"{where}: this row and the rest of the file cannot be read: {error}")


def is_blank(line: bytes) -> bool:
    """Return whether a line holds no row."""
    return not line.removeprefix(BOM).strip()


def read_json_file(path: Path, name: str | None = None, unwrap: bool = False) -> Iterator[LocatedRow]:
    """Read the rows of a JSON file: the objects of a list, a single object, or JSON lines.

    Args:
        path: the file.
        name: name of the file for messages; None for its path.
        unwrap: whether an object with exactly one list stands for the rows in this list, as in some releases.

    Yields:
        Each row, or the error of an invalid one.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    name = name or str(path)
    lines: list[bytes] = []
    damage: UsageError | None = None
    try:
        lines.extend(iter_lines(path))
    except UsageError as e:
        if not lines:
            raise
        damage = e
    text = b"".join(lines)
    try:
        value = [] if is_blank(text) else _load(text)
    except (ValueError, RecursionError):
        value = None  # JSON lines, or at least one row is invalid
    number = 0
    if isinstance(value, dict) and not unwrap:
        yield parse_row(text, f"{name}, row 1")
    elif value is not None:
        for number, row in enumerate(_find_rows(value, name), 1):
            yield _check_row(row, f"{name}, row {number}")
    elif text.lstrip().startswith(b"["):
        for number, element in enumerate(split_list(text), 1):
            yield parse_row(element, f"{name}, row {number}")
    else:
        for line in text.splitlines():
            if not is_blank(line):
                number += 1
                yield parse_row(line, f"{name}, row {number}")
    if damage:
        yield describe_damage(f"{name}, row {number + 1}", damage)


def _find_rows(value: Any, name: str) -> list[Any]:
    """Return a list of rows, or the only list in an object."""
    if isinstance(value, list):
        return value
    lists = [v for v in value.values() if isinstance(v, list)] if isinstance(value, dict) else []
    if len(lists) != 1:
        raise UsageError(f"{name}: expected a list of rows, got {type(value).__name__}")
    return lists[0]


def _check_row(row: Any, where: str) -> LocatedRow:
    if not isinstance(row, dict):
        return where, UsageError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return where, UsageError(_describe_depth(where, MAX_DEPTH)) if is_deeper(row, MAX_DEPTH) else row


def split_list(text: bytes) -> Iterator[bytes]:
    """Split the text of a JSON list into the texts of its elements, also if some of them are invalid.

    Example:
        >>> list(split_list(b'[{"a": "]"}, {broken}]'))
        [b'{"a": "]"}', b' {broken}']
    """
    start = position = text.index(b"[") + 1
    depth, is_last = 0, False
    for match in _TOKEN.finditer(text, start):
        token, position = match[0], match.end()
        if token in b"[{":
            depth += 1
        elif token in b"]}" and depth:
            depth -= 1
        elif token in b"]}," and not depth:
            is_last = token != b","
            element = text[start : match.start()]
            # An empty element at the end is a comma too many, or an empty list.
            if element.strip() or not is_last:
                yield element
            start = position
            if is_last:
                break
    if text[start:].strip():
        yield text[start:]


_TOKEN = re.compile(rb'"[^"\\\n]*+(?:\\.[^"\\\n]*+)*+"|[][{},]')
"""Tokens that tell where an element ends. A text that is not closed ends with its line."""


def _load(text: bytes) -> Any:
    # "surrogatepass" also accepts lone surrogates that other programs wrote as if they were characters.
    return json.loads(text.removeprefix(BOM).decode("utf-8", "surrogatepass"), object_pairs_hook=make_unique_object)


def _describe_depth(where: str, max_depth: int | None) -> str:
    return f"{where}: nested too deeply; expected at most {max_depth or MAX_DEPTH} levels of lists and objects"
