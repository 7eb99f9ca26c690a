"""Page of `flex-judge curate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.curation.card import SPLITS
from flex_judge.alignment.reporting.model import Table
from flex_judge.experiments.commands.curate.view import build_example_rows, build_flow_rows
from flex_judge.experiments.commands.report.unfinished import JUDGMENTS, build_judgment_sections, write_unfinished_page
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.blocks import (
    Card,
    Cards,
    ItemList,
    Page,
    PageBlock,
    PageSection,
)
from flex_judge.experiments.common.reporting.charts import draw_rows
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_failed_section,
    build_settings_section,
    sample_rows,
)
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_journal, iterate_rows

MAX_EXAMPLES = 12
"""Maximum number of training examples on the page."""


def write_page(record: RunRecord) -> Path:
    """Write the page of a curation, finished or not, and return its path."""
    summary = record.summary
    lead = f"{record.settings.get('teacher')} judged rows of {record.settings.get('source')}."
    if summary is None:
        return write_unfinished_page(record, "Training data for a judge", [lead])
    builder = ItemBuilder.for_folder(record.folder)
    train = sum(summary["samples"]["train"].values())
    cards = [
        Card("Training examples", f"{train:,}", tone="" if train else "bad"),
        Card("Rows", f"{summary['rows']:,}"),
        Card("Usable judgments", f"{summary['judgments']:,}"),
        Card("Rows without a judgment", f"{summary['rows_lost']:,}", tone="bad" if summary["rows_lost"] else "good"),
    ]
    flow = [("usable judgments", summary["judgments"])]
    flow += [(f"after {step['step']}", step["kept"]) for step in summary["steps"]]
    chart = draw_rows("Judgments after each step", flow, label="step", unit="judgments")
    sections = [
        PageSection("Steps", [chart, Table(("", "number"), list(build_flow_rows(summary)))]),
        PageSection("Examples", list(_build_example_blocks(record, builder, summary))),
    ]
    dropped = build_failed_section(builder, iterate_rows(record.folder / "dropped.jsonl"), "Dropped rows and judgments")
    if dropped is not None:
        sections.append(dropped)
    if (record.folder / JUDGMENTS).is_file():  # a synthetic teacher writes none
        sample = sample_judgments(iterate_journal(record.folder / JUDGMENTS))
        sections += build_judgment_sections(record, sample, builder)
    sections.append(build_settings_section(record))
    return html.write_page(record.folder / PAGE, Page("Training data for a judge", [lead, Cards(cards)], sections))


def _build_example_blocks(record: RunRecord, builder: ItemBuilder, summary: Mapping[str, Any]) -> Iterator[PageBlock]:
    yield Table(("", "number"), list(build_example_rows(summary)))
    sample = sample_rows(iterate_rows(record.folder / SPLITS["train"]), MAX_EXAMPLES)
    items = []
    for row in sample.rows:
        judgment = {"id": row["id"], "status": "ok", "votes": [], "scores": row["scores"]}
        item = builder.build_item(judgment, {"prompt": row["question"], "responses": row["responses"]})
        scores = " : ".join(f"{score:g}" for score in row["scores"])
        learned = [builder.build_message(message, "reply to learn") for message in row["completion"]]
        items.append(replace(item, status=row["kind"], outcome=scores, messages=[*item.messages, *learned]))
    yield ItemList("examples", items, sample.describe("training example"))
