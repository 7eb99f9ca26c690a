"""Ids of rows: their own ones, or their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flex_judge.experiments.benchmarks.data import Record


def assign_ids(records: Sequence[Record], fields: Sequence[str]) -> list[str]:
    """Assign an id to each row.

    The id is the row's own one, from the first field (or fields joined like `subset/id`) that is filled and unique over
    all rows. Otherwise, it is unique within a file or the number of the row, with the name of the file in front if
    there are several files, such as `pair/17`.

    Args:
        records: All rows.
        fields: Fields that may hold an id, in order of preference.
    """
    if ids := _find_unique_ids(records, fields):
        return ids
    records_by_file: dict[Path, list[Record]] = {}
    for record in records:
        records_by_file.setdefault(record.file, []).append(record)
    ids_by_file = {
        file: _find_unique_ids(file_records, fields) or [str(record.number) for record in file_records]
        for file, file_records in records_by_file.items()
    }
    if len(ids_by_file) == 1:
        return next(iter(ids_by_file.values()))
    file_names = _name_files(list(ids_by_file))
    remaining_ids = {file: iter(file_ids) for file, file_ids in ids_by_file.items()}
    return [f"{file_names[record.file]}/{next(remaining_ids[record.file])}" for record in records]


def _name_files(files: Sequence[Path]) -> dict[Path, str]:
    """Give files the shortest distinct names: their stems, their folders, or their whole paths."""
    for names in ({file: file.stem for file in files}, {file: file.parent.name for file in files}):
        if len(set(names.values())) == len(files):
            return names
    return {file: file.with_suffix("").as_posix() for file in files}


def _find_unique_ids(records: Sequence[Record], fields: Sequence[str]) -> list[str] | None:
    for field in fields:
        ids = []
        for record in records:
            values = [record.data.get(part) for part in field.split("/")]
            if all(isinstance(value, str | int) and value != "" for value in values):
                ids.append("/".join(map(str, values)))
        # All rows must have an id, and no two the same.
        if len(ids) == len(records) == len(set(ids)):
            return ids
    return None
