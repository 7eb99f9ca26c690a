"""Report of the arithmetic loop as an HTML page, with its table and plots as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import MetricValue, Note, Table, TableRow, as_number
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Chart, Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines, make_standalone
from flex_judge.experiments.common.reporting.runs import PAGE, RunRecord, build_settings_section
from flex_judge.experiments.common.reporting.steps import write_steps_page
from flex_judge.experiments.common.reporting.wording import format_count, format_percent
from flex_judge.experiments.studies.arithmetic_loop.card import build_evaluation_table
from flex_judge.judges.io.jsonl import write_text

TITLE = "The arithmetic loop"
PAPER = (
    ("Mol-LLaMA, default prompt", 63.55, 68.85, 76.41),
    ("Mol-LLaMA, chain of thought", 64.37, 69.83, 75.92),
    ("Mol-LLaMA, task information", 72.48, 77.49, 80.10),
)
"""Published accuracy in percent on PAMPA (407 molecules): prompt, policy, best of 16 by Flex-Mol-LLaMA, after DPO.

Source: arXiv 2505.18601.
"""
LEGEND = (
    "±: standard deviation over seeds, all with the same judge and questions. In brackets: 95 % interval over "
    "questions of the mean over seeds. PAMPA is another task with another policy and a larger judge; the constant "
    "answer `high` has an accuracy of 84.52 % on it."
)


def write_page(out: Path, summary: Mapping[str, Any], record: RunRecord | None = None) -> Path:
    """Write `report.html`, `table.md`, `curve.svg` and `gain.svg` into the run's folder.

    Args:
        out: Folder of the run.
        summary: Summary that `loop.main` returns.
        record: Record of the run, for its settings and times.

    Returns:
        Path of the page.
    """
    charts = {"curve": _draw_best_of_n(summary), "gain": _draw_gain(summary)}
    for name, chart in charts.items():
        write_text(out / f"{name}.svg", make_standalone(chart))
    write_text(out / "table.md", f"{to_markdown(build_comparison_table(summary))}\n{LEGEND}\n")
    page = _build_report(summary, charts)
    sections = [*page.sections, *([build_settings_section(record)] if record else [])]
    return html.write_page(out / PAGE, replace(page, sections=sections))


def write_run_page(record: RunRecord) -> Path:
    """Write the page of a run of the loop, finished or not, and return its path."""
    if record.summary is not None:
        return write_page(record.folder, record.summary, record)
    return write_steps_page(record, TITLE)


def _build_report(summary: Mapping[str, Any], charts: Mapping[str, Chart]) -> Page:
    greedy = summary["greedy"]
    before, after = format_percent(greedy["before"]["value"]), format_percent(greedy["after"]["value"])
    intro: list[PageBlock] = [
        f"The judge ({summary['judge']}) chose among the answers of the policy ({summary['policy']}). The policy was "
        "tuned on these choices and evaluated on other questions. The task is arithmetic, so the right answers are "
        "known; they are used for the evaluation only, and the judge does not see them. The embedded judge was trained "
        "on synthetic judgments of answers of this policy, written by a program. Its training data contains no "
        "calculation of the questions on which it is evaluated.",
        f"Greedy accuracy: {before} before DPO, {after} after DPO, a difference of "
        f"{_format_points(greedy['difference'])} points (mean of {format_count(summary['seeds'], 'seed')}, "
        f"{greedy['before']['count']} held-out questions; 95 % interval over questions).",
        Cards(
            [
                Card("Greedy accuracy before DPO", before),
                Card("Greedy accuracy after DPO", after),
                Card("Seeds", f"{summary['seeds']:,}"),
            ]
        ),
        charts["curve"],
        charts["gain"],
    ]
    paper = Note(
        f"{LEGEND} Compare the gains, not the levels: the gain of best-of-N over the policy, and the gain of DPO on "
        "the chosen answers (arXiv 2505.18601)."
    )
    sections = [
        PageSection("Comparison with the published case study on molecules", [build_comparison_table(summary), paper])
    ]
    if summary["evaluation"]:
        sections.append(PageSection("Evaluation of the judge", [build_evaluation_table(summary["evaluation"])]))
    sections.append(PageSection("Seeds", list(_list_seeds(summary))))
    return Page(TITLE, intro, sections)


def _list_seeds(summary: Mapping[str, Any]) -> Iterator[Table | Note]:
    columns = (
        "",
        "pairs",
        "only the chosen answer is right",
        "only the rejected answer is right",
        "greedy accuracy after DPO",
        "difference, points",
    )
    rows = [
        (
            f"seed {k}",
            pairs["pairs"],
            pairs["right"].get("chosen", 0),
            pairs["right"].get("rejected", 0),
            format_percent(run["after"]["value"]),
            _format_points(run["difference"]),
        )
        for k, (run, pairs) in enumerate(zip(summary["runs"], summary["pairs"], strict=False))
    ]
    yield Table(columns, rows)
    if summary["prompts_taught"] is not None:
        counts = ", ".join(map(str, summary["prompts_taught"]))
        yield Note(
            f"The pairs of each seed were made from {summary['prompts']} questions; {counts} of them have a "
            "calculation from the judge's training data."
        )


def build_comparison_table(summary: Mapping[str, Any]) -> Table:
    """Build the comparison with the paper: accuracy of the policy, of the best of N, and of the policy after DPO."""
    curve, greedy = summary["curve"], summary["greedy"]
    # JSON has string keys, so the largest N is found by its number.
    n = max(curve["best"], key=int)
    rows: list[TableRow] = [
        ("Embedded task, sampled", _format_points(curve["random"]["mean"]), _format_points(curve["best"][n]), ""),
        ("Embedded task, greedy", _format_points(greedy["before"]["value"]), "", _format_points(greedy["after"])),
    ]
    for name, *values in PAPER:
        rows.append((f"PAMPA: {name} (paper)", *(f"{value:.2f}" for value in values)))
    return Table(("accuracy, %", "policy", f"best of {n}; paper: of 16", "after DPO"), rows)


def _format_points(estimate: float | Mapping[str, Any]) -> MetricValue:
    """Format a fraction, or the estimate of one, in percentage points."""
    return as_number(estimate, scale=100, digits=1)


def _draw_best_of_n(summary: Mapping[str, Any]) -> Chart:
    curve = summary["curve"]
    sizes = sorted(curve["best"], key=int)
    series = [
        Series("best of N by the judge", [Point.from_estimate(curve["best"][n], 100) for n in sizes], colour=0),
        Series("pass@N", [Point.from_estimate(curve["pass_at"][n], 100) for n in sizes], colour=4),
        Series("one sample", [Point(100 * curve["random"]["mean"])] * len(sizes), dashed=True, colour=1),
    ]
    return draw_lines(
        f"Best of N on {summary['curve_questions']} held-out questions",
        sizes,
        series,
        x_label="N samples",
        y_label="right answers, %",
        top=100,
        note="Means over seeds with standard deviations. Every N uses a subset of the same samples.",
    )


def _draw_gain(summary: Mapping[str, Any]) -> Chart:
    """Draw the greedy accuracy before and after DPO for each seed and for the mean."""
    runs = [*summary["runs"], summary["greedy"]]
    names = [*(f"seed {k}" for k in range(len(summary["runs"]))), "mean"]
    series = [
        Series(title, [Point.from_estimate(run[key], 100) for run in runs], colour=colour)
        for key, title, colour in (("before", "before DPO", 1), ("after", "after DPO", 0))
    ]
    return draw_lines(
        "Policy before and after DPO",
        names,
        series,
        x_label="",
        y_label="right greedy answers, %",
        top=100,
        joined=False,
        note="95 % intervals over questions.",
    )
