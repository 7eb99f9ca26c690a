"""Reading of Parquet files in which values, pages or row groups may be damaged: each costs only its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError, to_one_line
from flex_judge.judges.extras import import_optional
from flex_judge.judges.io.json_rows import LocatedRow, NeedsColumn, UnreadableRowError, need_all

PARQUET_FEATURE = "a Parquet file"
"""Feature that needs pyarrow, for error messages."""
BATCH_ROWS = 1024
"""Number of rows that are converted at a time, so that large files do not have to fit into memory."""
VALUE_ERRORS = (OSError, ValueError, TypeError, LookupError, OverflowError, MemoryError, NotImplementedError)
"""Errors of pyarrow for damaged files and for values that Python cannot hold; most of its error types inherit from one.

For example, text that is not UTF-8 raises UnicodeDecodeError, a date after the year 9999 OverflowError, and a damaged
page OSError. NotImplementedError is a base of ArrowNotImplementedError, for nested values that it cannot convert.
"""


@dataclass(frozen=True)
class _BadValue:
    """Value that cannot be read."""

    problem: str


@dataclass(frozen=True)
class ParquetInfo:
    """Number of rows and names of the columns of a Parquet file."""

    count: int
    columns: tuple[str, ...]


def read_parquet_info(path: Path) -> ParquetInfo:
    """Read the number of rows and the names of the columns.

    Raises:
        UsageError: the file cannot be read, or is not a Parquet file.
    """
    with _open_parquet(path) as parquet:
        return ParquetInfo(parquet.metadata.num_rows, tuple(parquet.schema_arrow.names))


def read_parquet(
    path: Path,
    start: int = 0,
    stop: int | None = None,
    *,
    name: str | None = None,
    needs: NeedsColumn = need_all,
) -> Iterator[LocatedRow]:
    """Read rows of a Parquet file.

    Args:
        path: the file.
        start: index of the first row, from 0.
        stop: index after the last row; None for all rows.
        name: name of the file for messages; None for its path.
        needs: whether a column is read. The others are None in every row, so their content does not matter.

    Yields:
        Each row, or UnreadableRowError for a row with a value that cannot be read.

    Raises:
        UsageError: the file cannot be read, or is not a Parquet file.
    """
    with _open_parquet(path) as parquet:
        names = list(parquet.schema_arrow.names)
        columns = [column for column in names if needs(column)]
        for column in columns:
            if columns.count(column) > 1:
                raise UsageError(f"{path}: has two columns {column!r}; rename one")
        group_start = 0
        for group in range(parquet.num_row_groups):
            size = parquet.metadata.row_group(group).num_rows
            low, high = max(start - group_start, 0), size if stop is None else min(stop - group_start, size)
            reader = _GroupReader(parquet, group, columns)
            for number, row in enumerate(reader.read(low, high), group_start + low + 1):
                where = f"{name or path}, row {number}"
                problems = {column: v.problem for column, v in row.items() if isinstance(v, _BadValue)}
                data = dict.fromkeys(names) | {column: v for column, v in row.items() if column not in problems}
                yield where, UnreadableRowError.from_fields(where, data, problems) if problems else data
            group_start += size


@contextmanager
def _open_parquet(path: Path) -> Iterator[Any]:
    pa, pq = import_optional("pyarrow", PARQUET_FEATURE), import_optional("pyarrow.parquet", PARQUET_FEATURE)
    try:
        file = path.open("rb")
    except OSError as e:
        raise UsageError(f"{path}: cannot be read: {e.strerror}") from e
    with file:
        try:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            _ = parquet.schema_arrow.names  # not read before it is asked for
            sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
            if sum(sizes) != parquet.metadata.num_rows or min(sizes, default=0) < 0:
                raise ValueError(f"has {parquet.metadata.num_rows} rows, but row groups of {sum(sizes)} rows")
        except (pa.ArrowException, *VALUE_ERRORS) as e:
            reason = getattr(e, "strerror", None) or to_one_line(e)[:200]
            raise UsageError(f"{path}: not a Parquet file, or damaged: {reason}") from e
        yield parquet


class _GroupReader:
    """Reader of a row group.

    Args:
        parquet: the open file.
        group: index of the row group.
        columns: names of the columns that are read.
    """

    def __init__(self, parquet: Any, group: int, columns: list[str]) -> None:
        self._parquet, self._group, self._columns = parquet, group, columns
        pa = import_optional("pyarrow", PARQUET_FEATURE)
        self._errors = (pa.ArrowException, *VALUE_ERRORS)

    def read(self, low: int, high: int) -> Iterator[Mapping[str, Any]]:
        """Yield the rows `low` to `high` (exclusive) of the group, with _BadValue for values that cannot be read."""
        position = low
        if not self._columns:
            yield from ({} for _ in range(low, high))
            return
        batches = self._iter_batches(self._columns, low, high)
        while position < high:
            try:
                batch = next(batches)
            except (StopIteration, *self._errors):
                break
            yield from self._convert_batch(batch)
            position += batch.num_rows
        if position < high:
            # A page cannot be read, or there are fewer rows than the file says: read one column at a time.
            values = {column: self._read_column(column, position, high) for column in self._columns}
            yield from _iterate_rows(values)

    def _iter_batches(self, columns: list[str], low: int, high: int, rows: int = BATCH_ROWS) -> Iterator[Any]:
        position = 0
        for batch in self._parquet.iter_batches(rows, row_groups=[self._group], columns=columns):
            start, stop = max(low - position, 0), min(high - position, batch.num_rows)
            if start < stop:
                # A column `a.b` is also selected by the name of a column `a`.
                yield batch.slice(start, stop - start).select(columns)
            position += batch.num_rows
            if position >= high:
                return

    def _convert_batch(self, batch: Any) -> Iterator[Mapping[str, Any]]:
        try:
            yield from batch.to_pylist()
        except self._errors:
            values = {column: self._convert_values(batch.column(column)) for column in self._columns}
            yield from _iterate_rows(values)

    def _convert_values(self, array: Any) -> list[Any]:
        try:
            return list(array.to_pylist())
        except self._errors:
            return [self._convert_value(array, k) for k in range(len(array))]

    def _convert_value(self, array: Any, k: int) -> Any:
        try:
            return array[k].as_py()
        except self._errors as e:
            return _BadValue(describe_value_error(e))

    def _read_column(self, column: str, low: int, high: int) -> list[Any]:
        """Read the values of a column that precede a damaged page; the others become _BadValue.

        pyarrow cannot skip a damaged page, so later pages of the same row group are lost with it.
        """
        values: list[Any] = []
        problem = "the file has fewer rows than it says"
        # First in large batches, then one by one up to the damage.
        for rows in (BATCH_ROWS, 1):
            try:
                for batch in self._iter_batches([column], low + len(values), high, rows):
                    values += self._convert_values(batch.column(0))
            except self._errors as e:
                problem = f"damaged page ({describe_value_error(e)})"
            if len(values) == high - low:
                break
        return values + [_BadValue(problem)] * (high - low - len(values))


def _iterate_rows(columns: Mapping[str, list[Any]]) -> Iterator[Mapping[str, Any]]:
    for values in zip(*columns.values(), strict=True):
        yield dict(zip(columns, values, strict=True))


def describe_value_error(error: Exception) -> str:
    """Describe why a value cannot be read, in one line."""
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: byte {error.start + 1} is invalid"
    return to_one_line(error)[:200] or type(error).__name__
