"""Rows of result files and of users' inputs, for pages: files that grow, and rows that messages name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.comparison_rows import read_comparison_json
from flex_judge.judges.io.files import read_table
from flex_judge.judges.io.json_rows import parse_object

Row = dict[str, Any]
WHERE = re.compile(r"^(.+?, (?:line|row) \d+)")
"""File and row at the start of a message."""
_PROMPT_COLUMNS = ("prompt", "question_body", "question")


def iterate_rows(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a file that a process may be writing: an incomplete last line is left out.

    A file that does not exist has no rows.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n") and line.strip(b"\0 \t\r\n"):
                yield parse_object(line, f"{path}, line {number}", max_depth=None)


def iterate_journal(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a journal, where a later row of the same id replaces an earlier one."""
    last_places = {row.get("id"): number for number, row in enumerate(iterate_rows(path))}
    for number, row in enumerate(iterate_rows(path)):
        if last_places[row.get("id")] == number:
            yield row


def find_rows(places: Iterable[str]) -> dict[str, Row]:
    """Find rows of users' tables by file and row, as messages name them. Rows that cannot be read are left out."""
    by_file: dict[str, set[str]] = {}
    for place in places:
        by_file.setdefault(place.rpartition(", ")[0], set()).add(place)
    rows: dict[str, Row] = {}
    for file, pending in by_file.items():
        try:
            rows |= _find_lines(Path(file), pending)
            for where, data in read_table(Path(file)):
                if where in pending and not isinstance(data, UsageError):
                    rows[where] = dict(data)
                    pending.discard(where)
                if not pending:
                    break
        except (UsageError, OSError):  # the file was moved, or has a format that only its command reads
            continue
    return rows


def _find_lines(path: Path, pending: Iterable[str]) -> dict[str, Row]:
    """Find the rows of a JSON lines file that messages name by their lines."""
    numbers = {int(where.rpartition(" ")[2]): where for where in pending if where.rpartition(" ")[0].endswith(", line")}
    rows: dict[str, Row] = {}
    if not numbers or path.suffix != ".jsonl" or not path.is_file():
        return rows
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number in numbers:
                try:
                    rows[numbers[number]] = parse_object(line, str(path), max_depth=None)
                except UsageError:  # the reason of the failure
                    continue
    return rows


def find_prompt(row: Mapping[str, Any]) -> Any:
    """Find the prompt in a row of an input; None without one."""
    return next((row[name] for name in _PROMPT_COLUMNS if row.get(name) is not None), None)


def find_comparisons(rows: Iterable[Row], folder: Path) -> dict[str, Row]:
    """Find the comparisons of judgments that do not hold them, in the tables of the run or in the input of the user."""
    rows = list(rows)
    wanted = {str(row["prompt"]) for row in rows if isinstance(row.get("prompt"), str)}
    prompts: dict[str, Row] = {}
    for name in ("best_of_n", "completions"):
        for path in (folder / f"{name}.jsonl", *sorted((folder / "shards").glob(f"{name}-*.jsonl"))):
            if len(prompts) < len(wanted):
                matches = (row for row in iterate_rows(path) if row.get("id") in wanted and "responses" in row)
                prompts |= {str(row["id"]): row for row in matches}
    places = {str(row["id"]): str(read_comparison_json(row).get("where") or "") for row in rows}
    inputs = find_rows(place for place in places.values() if WHERE.match(place))
    comparisons: dict[str, Row] = {}
    for row in rows:
        key = str(row["id"])
        if (source := prompts.get(str(row.get("prompt")))) is not None:
            members = row.get("responses") or ()
            source_responses = source["responses"]
            responses = [source_responses[i] for i in members if isinstance(i, int) and i < len(source_responses)]
            comparisons[key] = {"prompt": source.get("prompt"), "responses": responses}
        elif (data := inputs.get(places[key])) is not None:
            answers = data.get("responses")
            comparisons[key] = {
                "prompt": data.get("prompt"),
                "responses": answers if isinstance(answers, list) else [],
            }
    return comparisons
