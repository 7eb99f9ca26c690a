"""Page of an unfinished run that grows a file of judgments: demo, benchmark, curation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flex_judge.experiments.commands.eval.page import write_benchmark_page
from flex_judge.experiments.common.reporting.blocks import Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.charts import draw_scores
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_judgments_section,
    build_settings_section,
    build_state,
)
from flex_judge.experiments.common.reporting.sampling import JudgmentSample, sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_journal

JUDGMENTS = "judgments.jsonl"


def write_unfinished_page(record: RunRecord, title: str, intro: Sequence[PageBlock] = ()) -> Path:
    """Write the page of an unfinished run from its judgments so far, and return its path.

    Args:
        record: record of the run.
        title: title of the page.
        intro: blocks at its top.
    """
    sample = sample_judgments(iterate_journal(record.folder / JUDGMENTS))
    state = build_state(record, sample.total - sample.num_failed, sample.num_failed)
    sections = build_judgment_sections(record, sample, ItemBuilder.for_folder(record.folder))
    return write_page(record.folder / PAGE, Page(title, [*intro, *state], [*sections, build_settings_section(record)]))


def write_evaluation_page(record: RunRecord) -> Path:
    """Write the page of a benchmark run, finished or not, and return its path."""
    if record.summary is not None:
        return write_benchmark_page(record)
    settings = record.settings
    lead = f"Judge: {settings.get('judge', 'stored replies')}. Metrics come with the last judgment."
    return write_unfinished_page(record, f"Benchmark {settings.get('benchmark')}", [lead])


def build_judgment_sections(record: RunRecord, sample: JudgmentSample, builder: ItemBuilder) -> list[PageSection]:
    """Build the sections with the distribution of the scores and the judgments."""
    sections = []
    if sample.scores:
        sections.append(PageSection("Scores", [draw_scores(sample.scores)]))
    return [*sections, build_judgments_section(builder, sample, record.folder)]
