"""Page of a file of judgments, the output of `flex-judge judge`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import name_option
from flex_judge.experiments.commands.judge.output import PAGE_ENDING, RECORD_ENDING
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.charts import draw_bars, draw_scores
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.runs import (
    RunRecord,
    build_judgments_section,
    build_settings_section,
    build_state,
)
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_journal
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_table, require_rows
from flex_judge.judges.io.jsonl import read_object

_REQUIRED_KEYS = {"id", "status", "votes"}


def write_judgments_page(path: Path) -> Path:
    """Write the page of a file of judgments next to it, and return its path.

    Raises:
        UsageError: the file holds something else.
    """
    record = _read_record(path)
    preferred: Counter[str] = Counter()

    def count_rows(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if not row.keys() >= _REQUIRED_KEYS:
                raise UsageError(f"{path}: holds something other than judgments; name the --out of flex-judge judge")
            if row.get("scores") is not None and len(row["scores"]) > 1:
                preferred["tie" if row.get("preferred") is None else str(row["preferred"])] += 1
            yield row

    sample = sample_judgments(count_rows(_iterate_judgments(path)))
    builder = ItemBuilder.for_folder(path.parent, Path(str(record.settings.get("input", ""))).parent)
    settings = record.settings
    intro: list[PageBlock] = []
    if settings:
        intro.append(
            f"{settings.get('judge')} judged {settings.get('input')} with the rubric {settings.get('rubric')}."
        )
    scored = sample.total - sample.num_failed
    if record.summary is None:
        intro += build_state(record, scored, sample.num_failed)
    else:
        cards = [
            Card("Comparisons with a score", f"{scored:,}", f"of {sample.total:,}"),
            Card("Without a score", f"{sample.num_failed:,}", tone="bad" if sample.num_failed else "good"),
            Card("Votes", f"{sample.votes:,}", f"{format_count(sum(sample.forced.values()), 'forced answer')}"),
        ]
        intro.append(Cards(cards))
    charts: list[PageBlock] = []
    if sample.scores:
        charts.append(draw_scores(sample.scores))
    if preferred:
        names = sorted(preferred, key=lambda name: (name == "tie", len(name), name))
        counts = [(_name_preferred(name), preferred[name]) for name in names]
        charts.append(draw_bars("Preferred response", counts, label="response", unit="comparisons", colour=2))
    sections = [PageSection("Scores", charts)] if charts else []
    sections.append(build_judgments_section(builder, sample, path.parent))
    if settings:
        sections.append(build_settings_section(record))
    return write_page(path.with_name(path.name + PAGE_ENDING), Page(f"Judgments: {path.name}", intro, sections))


def _read_record(path: Path) -> RunRecord:
    """Read the record next to a file of judgments; a file without one counts as finished."""
    file = path.with_name(path.name + RECORD_ENDING)
    record = read_object(file) if file.is_file() else {}
    expected = record.get("expected") or {}
    return RunRecord(
        folder=path.parent,
        kind="judge",
        settings=record.get("settings") or {},
        command=str(record.get("command") or ""),
        seconds={},
        total_seconds=0.0,
        expected=expected.get("count"),
        noun="comparison",
        summary={} if record.get("is_finished", True) else None,
    )


def _iterate_judgments(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the judgments of a file, and of the journal that a Parquet file has while it is not finished."""
    if path.suffix != ".parquet":
        yield from iterate_journal(path)
        return
    newer = set()
    for row in iterate_journal(path.with_name(path.name + ".jsonl")):
        newer.add(row.get("id"))
        yield row
    if path.is_file() and path.stat().st_size:
        yield from (dict(row) for _, row in require_rows(read_table(path)) if row.get("id") not in newer)


def _name_preferred(name: str) -> str:
    return name if name == "tie" else name_option(int(name))
