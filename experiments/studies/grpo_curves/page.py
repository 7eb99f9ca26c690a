"""Report of the GRPO curves as an HTML page, with the figure as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import Note, Table, TableRow, as_number
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Chart, Page, PageSection
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines, make_standalone
from flex_judge.experiments.common.reporting.runs import PAGE, RunRecord, build_settings_section
from flex_judge.experiments.common.reporting.steps import write_steps_page
from flex_judge.experiments.common.reporting.wording import format_count, format_percent
from flex_judge.judges.io.jsonl import write_text

TITLE = "GRPO with a served judge"
WINDOW = 5
"""Number of steps that a point of the training curve averages: a step has few completions."""


def write_page(out: Path, summary: Mapping[str, Any], record: RunRecord | None = None) -> Path:
    """Write `report.html`, `table.md`, `curve.svg` and `training.svg` into the run's folder, and return the page.

    Args:
        out: folder of the run.
        summary: summary that `run_study` returns.
        record: record of the run, for its settings and times.
    """
    charts = {"curve": _draw_evaluations(summary), "training": _draw_steps(summary)}
    for name, chart in charts.items():
        write_text(out / f"{name}.svg", make_standalone(chart))
    table = build_results_table(summary)
    write_text(out / "table.md", to_markdown(table) + "\n")
    first, last = summary["evaluations"][0], summary["evaluations"][-1]
    cards = Cards(
        [
            Card("Greedy accuracy before", format_percent(first["accuracy"]["value"])),
            Card("Greedy accuracy after", format_percent(last["accuracy"]["value"])),
            Card("Canaries judged correctly", format_percent(last["canaries"])),
        ]
    )
    intro = (
        f"The policy ({summary['policy']}) was trained with GRPO on scores of the judge ({summary['judge']}), which "
        f"never sees a right answer: {format_count(summary['seeds'], 'seed')}, {summary['steps']:,} steps "
        "each. The task is arithmetic, so the truth is known; it is measured and not used for training. The canaries "
        "are fixed answers, a right and a wrong one to each question: their scores change only if the judge does."
    )
    sections = [PageSection("Evaluations", [table, Note(_describe_gain(summary))])]
    sections += [build_settings_section(record)] if record else []
    return html.write_page(out / PAGE, Page(TITLE, [intro, cards, *charts.values()], sections))


def write_run_page(record: RunRecord) -> Path:
    """Write the page of a run of the study, finished or not, and return its path."""
    if record.summary is not None:
        return write_page(record.folder, record.summary, record)
    return write_steps_page(record, TITLE)


def build_results_table(summary: Mapping[str, Any]) -> Table:
    """Build the table of all evaluations."""
    columns = ("step", "right greedy answers, %", "judge's score of them", "canaries judged correctly, %")
    rows: list[TableRow] = [
        (
            f"{evaluation['step']}",
            as_number(evaluation["accuracy"], scale=100, digits=1),
            as_number(evaluation["judge_score"], digits=2),
            as_number(evaluation["canaries"], scale=100, digits=1),
        )
        for evaluation in summary["evaluations"]
    ]
    return Table(columns, rows)


def _describe_gain(summary: Mapping[str, Any]) -> str:
    gain = as_number(summary["gain"], scale=100, digits=1)
    seeds = ", ".join(f"{100 * value:+.1f}" for value in summary["gains"])
    unscored = format_count(summary["unscored"], "judgment")
    return (
        f"Difference between the last and the first evaluation: {gain} points (mean over seeds with a 95 % interval "
        f"over questions; by seed {seeds}). Without a score: {unscored} of all evaluations."
    )


def _draw_evaluations(summary: Mapping[str, Any]) -> Chart:
    evaluations = summary["evaluations"]
    low, high = summary["score_range"]
    scores = [evaluation["judge_score"] for evaluation in evaluations]
    scaled = [Point(None if score is None else 100 * (score - low) / (high - low)) for score in scores]
    canaries = [Point(None if e["canaries"] is None else 100 * e["canaries"]) for e in evaluations]
    return draw_lines(
        "Truth, judge and canaries while the policy trains",
        [str(evaluation["step"]) for evaluation in evaluations],
        [
            Series("right greedy answers", [Point.from_estimate(e["accuracy"], 100) for e in evaluations], colour=0),
            Series("judge's mean score of them", scaled, colour=1),
            Series("canaries judged correctly", canaries, dashed=True, colour=4),
        ],
        x_label="GRPO step",
        y_label="%",
        top=100,
        note=f"Scores from {low:g} to {high:g} are shown as 0 to 100 %. Bars: 95 % intervals over questions.",
    )


def _draw_steps(summary: Mapping[str, Any]) -> Chart:
    low, high = summary["score_range"]
    steps = summary["training"]
    windows = [steps[i : i + WINDOW] for i in range(0, len(steps), WINDOW)]
    truths = [[entry["truth"]["mean"] for entry in window] for window in windows]
    scores = [[entry["judge_score"]["mean"] for entry in window] for window in windows]
    return draw_lines(
        "Completions of the training",
        [str(window[-1]["step"]) for window in windows],
        [
            Series("right completions", [_average(values, 0, 1) for values in truths], colour=0),
            Series("judge's mean score", [_average(values, low, high) for values in scores], colour=1),
        ],
        x_label="GRPO step",
        y_label="%",
        top=100,
        note=f"Each point is the mean of {WINDOW} steps and of all seeds. Completions are sampled.",
    )


def _average(values: list[float | None], low: float, high: float) -> Point:
    """Average values, scaled from `low` to `high` to percent."""
    known = [value for value in values if value is not None]
    return Point(100 * (sum(known) / len(known) - low) / (high - low) if known else None)
