"""Page of a suite, finished or not: one table, and a link to the page of each benchmark."""

from __future__ import annotations

from pathlib import Path

from flex_judge.alignment.reporting.model import Note
from flex_judge.experiments.commands.eval.suite_table import (
    DONE,
    NOT_SELECTED,
    build_published_table,
    build_suite_table,
    list_remarks,
)
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Links, Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_resuming_command,
    build_settings_section,
)
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.io.jsonl import read_object


def write_suite_page(record: RunRecord) -> Path:
    """Write `report.html` into the folder of a suite, from its `summary.json`, and return the path of the page.

    Raises:
        UsageError: The summary is missing or invalid.
    """
    folder = record.folder
    summary = read_object(folder / "summary.json", ("suite", "judge", "rows", "benchmarks"))
    entries = summary["benchmarks"]
    num_done = sum(entry["state"] == DONE for entry in entries.values())
    num_selected = sum(entry["state"] != NOT_SELECTED for entry in entries.values())
    items = sum(entry["items"] for entry in entries.values())
    not_judged = sum(entry["not_judged"] for entry in entries.values())
    cards = [
        Card("Benchmarks run", f"{num_done} of {num_selected}", tone="good" if num_done == num_selected else ""),
        Card("Items", f"{items:,}"),
        Card("Items without a judgment", f"{not_judged:,}", tone="bad" if not_judged else "good"),
    ]
    replay = f" Replies are from {', '.join(summary['replay'])}; no model was run." if summary["replay"] else ""
    intro: list[PageBlock] = [
        f"Suite {summary['suite']}: {summary['about']}. Judge: {summary['judge']}.{replay}",
        Cards(cards),
    ]
    if record.summary is None:
        intro.insert(0, "This run is not finished. The table has the benchmarks that are done so far.")
        if record.command:
            intro.append(build_resuming_command(record))
    links = [(f"{name}/{PAGE}", name) for name in entries if (folder / name / PAGE).is_file()]
    sections = [PageSection("Results", [build_suite_table(summary)])]
    others = build_published_table(summary)
    if others.rows:
        sections.append(PageSection("Other published results", [others]))
    if links:
        lead = f"{format_count(len(links), 'page')} with groups, calibration, biases and judgments:"
        sections.append(PageSection("Benchmarks", [Links(lead, links)]))
    if remarks := list(list_remarks(summary)):
        sections.append(PageSection("Remarks", [Note(f"{remark.rstrip('.')}.") for remark in remarks]))
    return write_page(folder / PAGE, Page("Benchmarks", intro, [*sections, build_settings_section(record)]))
