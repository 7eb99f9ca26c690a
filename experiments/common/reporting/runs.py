"""Runs on pages: what a run folder records, how far the run is, and the rows of its files, finished or not."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Table, TableRow
from flex_judge.experiments.common.reporting.blocks import (
    Card,
    Cards,
    CommandLine,
    Fold,
    ItemList,
    PageBlock,
    PageSection,
    Progress,
)
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.sampling import JudgmentSample, keep_at_random, sample_judgments
from flex_judge.experiments.common.reporting.tables import WHERE, find_comparisons, find_prompt, find_rows
from flex_judge.experiments.common.reporting.wording import STATUS_WORDS, format_count, format_duration
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object

Row = dict[str, Any]
PAGE = "report.html"
MAX_ROWS = 40
"""Maximum number of failed rows on a page."""
MAX_REASONS = 20
MAX_SETTING_CHARS = 300


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Record of a run in its folder."""

    folder: Path
    kind: str
    """Command or study; empty for runs of versions that did not record it."""
    settings: Mapping[str, Any]
    command: str = ""
    """Command line; empty if the run was not started from one."""
    seconds: Mapping[str, float]
    total_seconds: float
    expected: int | None = None
    """Number of rows of the run."""
    noun: str = "row"
    """What a row is."""
    summary: Row | None = None
    """Content of `summary.json`; None if the run is not finished."""


def read_run(folder: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        UsageError: the folder holds no run, or its record is invalid.
    """
    file = folder / "run.json"
    if not file.is_file():
        raise UsageError(
            f"{folder}: holds no run: {file.name} is missing; name a folder that a command wrote to (--out)"
        )
    run = read_object(file, ("settings",))
    expected = run.get("expected") or {}
    summary = folder / "summary.json"
    # Versions that did not record it wrote the summary last.
    is_finished = run.get("is_finished", True) and summary.is_file()
    return RunRecord(
        folder=folder,
        kind=str(run.get("kind") or ""),
        settings=run["settings"],
        command=str(run.get("command") or ""),
        seconds=run.get("seconds") or {},
        total_seconds=float(run.get("total_seconds") or 0.0),
        expected=expected.get("count"),
        noun=str(expected.get("noun") or "row"),
        summary=read_object(summary) if is_finished else None,
    )


def build_state(record: RunRecord, done: int, failed: int) -> list[PageBlock]:
    """Build the state of an unfinished run: rows done, failed and left, and the command that resumes it.

    Args:
        record: record of the run.
        done: number of rows with a result.
        failed: number of rows that were tried and have none.
    """
    cards = [Card("Done", f"{done:,}"), Card("Failed", f"{failed:,}", tone="bad" if failed else "")]
    blocks: list[PageBlock] = ["This run is not finished. The figures below cover what is done so far."]
    if record.expected is not None:
        left = max(0, record.expected - done - failed)
        cards.append(Card("Left", f"{left:,}", f"of {format_count(record.expected, record.noun)}"))
    if record.total_seconds:
        cards.append(Card("Time so far", format_duration(record.total_seconds)))
    blocks.append(Cards(cards))
    if record.expected:
        blocks.append(Progress(done, failed, record.expected))
    if record.command:
        blocks.append(build_resuming_command(record))
    else:
        blocks.append("The same command with the same folder resumes it.")
    return blocks


def build_resuming_command(record: RunRecord) -> CommandLine:
    """Build the block with the command that resumes an unfinished run."""
    return CommandLine(record.command, "This command resumes it, from the same working directory:")


def build_settings_section(record: RunRecord) -> PageSection:
    """Build the section with settings, command and times of a run."""
    rows: list[TableRow] = [
        (name.replace("_", " "), _format_setting(value))
        for name, value in record.settings.items()
        if value is not None and value != [] and value != ""
    ]
    blocks: list[PageBlock] = [
        Fold("Settings that determine the result", Table(("setting", "value"), rows, text_columns=2))
    ]
    seconds = (record.summary or {}).get("seconds") or {**record.seconds, "total": record.total_seconds}
    times: list[TableRow] = [(name.replace("_", " "), format_duration(s)) for name, s in seconds.items()]
    if seconds["total"]:
        blocks.append(Table(("phase", "time, all starts"), times, note="Phases may overlap."))
    if record.command:
        blocks.insert(0, CommandLine(record.command, "Command of this run:"))
    return PageSection("Settings and time", blocks)


def _format_setting(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SETTING_CHARS else text[:MAX_SETTING_CHARS] + "…"


def build_judgments_section(
    builder: ItemBuilder, sample: JudgmentSample, folder: Path, title: str = "Judgments", name: str = "judgments"
) -> PageSection:
    """Build the section with counts and a selection of judgments."""
    blocks: list[PageBlock] = []
    if sample.num_failed:
        rows: list[TableRow] = [
            (status.replace("_", " "), detail, STATUS_WORDS.get(status, ""), count)
            for (status, detail), count in sample.reasons.most_common(MAX_REASONS)
        ]
        left_out = len(sample.reasons) - len(rows)
        note = f"{format_count(left_out, 'more reason')}." if left_out else ""
        columns = ("status", "reason", "meaning", "judgments")
        blocks.append(Table(columns, rows, "Judgments without a score", note=note, text_columns=3))
    elif sample.total:
        blocks.append(f"Every one of {format_count(sample.total, 'judgment')} has a score.")
    blocks.append(builder.build_list(name, sample, lambda rows: find_comparisons(rows, folder)))
    return PageSection(title, blocks)


def build_failure_list(folder: Path, judgments: Iterable[Row]) -> ItemList | None:
    """Build the list of judgments without a score; None without any."""
    sample = sample_judgments(row for row in judgments if row.get("scores") is None)
    if not sample.total:
        return None
    builder = ItemBuilder.for_folder(folder)
    return builder.build_list("failures", sample, lambda rows: find_comparisons(rows, folder))


def build_failed_section(builder: ItemBuilder, rows: Iterable[Row], title: str = "Failed rows") -> PageSection | None:
    """Build the section with rows that have no result; None without any.

    Args:
        builder: builder of the page.
        rows: rows with `id` or `row`, `reason`, and `problem` or `detail`, which starts with file and row.
        title: title of the section.
    """
    counts: dict[str, int] = {}
    kept: dict[str, list[Row]] = {}
    rng = random.Random(0)
    for row in rows:
        reason = str(row.get("reason"))
        counts[reason] = counts.get(reason, 0) + 1
        keep_at_random(kept.setdefault(reason, []), row, MAX_ROWS, counts[reason], rng)
    if not counts:
        return None
    share = max(1, MAX_ROWS // len(kept))
    shown = [row for group in kept.values() for row in group[:share]][:MAX_ROWS]
    places = {id(row): _find_where(row) for row in shown}
    inputs = find_rows(place for place in places.values() if place)
    items = [builder.build_failed_row(row, find_prompt(inputs.get(places[id(row)], {}))) for row in shown]
    table = Table(("reason", "rows"), [(reason.replace("_", " "), count) for reason, count in counts.items()])
    total = sum(counts.values())
    note = f"{len(shown):,} of {format_count(total, 'row')}, taken from every reason." if len(shown) < total else ""
    return PageSection(title, [table, ItemList("failed", items, note)])


def _find_where(row: Mapping[str, Any]) -> str:
    match = WHERE.match(str(row.get("problem") or row.get("detail") or ""))
    return match[1] if match else ""


class RowSample:
    """Rows for a page, and the number of all rows."""

    def __init__(self, rows: list[Row], total: int) -> None:
        self.rows, self.total = rows, total

    def describe(self, noun: str) -> str:
        """Describe how many rows are shown."""
        if len(self.rows) == self.total:
            return f"All {format_count(self.total, noun)}."
        return f"{len(self.rows)} of {format_count(self.total, noun)}, at random (seeded)."


def sample_rows(rows: Iterable[Row], limit: int) -> RowSample:
    """Sample rows at random in one pass; they stay in the order of the file."""
    kept: list[tuple[int, Row]] = []
    rng, total = random.Random(0), 0
    for total, row in enumerate(rows, 1):
        keep_at_random(kept, (total, row), limit, total, rng)
    return RowSample([row for _, row in sorted(kept, key=lambda pair: pair[0])], total)
