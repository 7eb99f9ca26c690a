"""Page of an unfinished study: the runs of its steps and how far each of them is."""

from __future__ import annotations

from pathlib import Path

from flex_judge.alignment.reporting.model import Table, TableRow
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_resuming_command,
    build_settings_section,
    read_run,
)
from flex_judge.experiments.common.reporting.wording import format_duration
from flex_judge.judges.errors import UsageError


def write_steps_page(record: RunRecord, title: str) -> Path:
    """Write the page of an unfinished study and return its path.

    Args:
        record: record of the study.
        title: title of the page.
    """
    steps = list_steps(record.folder)
    finished = sum(step.summary is not None for _, step in steps)
    intro: list[PageBlock] = ["This study is not finished. Each step has a page of its own, in its folder."]
    intro.append(
        Cards(
            [
                Card("Finished steps", f"{finished:,}", f"of {len(steps):,} that have started"),
                Card("Time so far", format_duration(record.total_seconds)),
            ]
        )
    )
    if record.command:
        intro.append(build_resuming_command(record))
    rows: list[TableRow] = [
        (
            name,
            step.kind,
            "finished" if step.summary is not None else "not finished",
            format_duration(step.total_seconds),
        )
        for name, step in steps
    ]
    table = Table(("folder", "command", "state", "time, all starts"), rows, text_columns=3)
    sections = [PageSection("Steps", [table] if rows else ["No step has started."]), build_settings_section(record)]
    return write_page(record.folder / PAGE, Page(title, intro, sections))


def list_steps(folder: Path) -> list[tuple[str, RunRecord]]:
    """List the runs in the subfolders of a study, in the order of their names."""
    steps = []
    for file in sorted(folder.glob("*/**/run.json")):
        if "shards" not in file.parts:
            try:
                steps.append((str(file.parent.relative_to(folder)), read_run(file.parent)))
            except UsageError:  # a step that is writing its record
                continue
    return steps
