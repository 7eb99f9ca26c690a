"""Report of the PAMPA case study as an HTML page, with its table and plot as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import Block, MetricValue, Note, Table, as_number
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.blocks import Chart, Page, PageSection
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines, make_standalone
from flex_judge.experiments.common.reporting.runs import PAGE, RunRecord, build_settings_section
from flex_judge.experiments.common.reporting.steps import write_steps_page
from flex_judge.judges.io.jsonl import write_text

TITLE = "Molecules, answered and judged"
PAPER = {"default": (63.55, 68.85, 76.41), "cot": (64.37, 69.83, 75.92), "task-info": (72.48, 77.49, 80.10)}
"""Published accuracy in percent on PAMPA (407 molecules) of Mol-LLaMA, by prompt style.

The values are: policy, best of 16 by Flex-Mol-LLaMA, after DPO. Source: arXiv 2505.18601.
"""
ALWAYS = 84.52
"""Accuracy on PAMPA in percent of the constant answer `high`, which is above every published value."""
PAPER_SAMPLES = 16
STEPS = {"greedy": "greedy", "best": "best of {n}", "dpo": "greedy, after DPO"}
LEGEND = (
    "A missing answer counts as wrong. In brackets: 95 % intervals over molecules. A metric of best-of-N is the mean "
    "over random subsets of N answers, ± its standard deviation, which is 0 if N is the number of all answers. "
    "Balanced accuracy is the mean over classes, MCC is Matthews' correlation coefficient; a constant answer has the "
    "values of chance in both."
)
SECOND_PASS = (
    "Second pass: an answer without “Final answer:” is continued after these words, as in the published evaluation; "
    "the judge's scores stay. Official reading: the regular expressions of the published scripts. There, the accuracy "
    "of first answers covers answers with a class only, and best-of-N molecules with a score only."
)


def write_page(out: Path, summary: Mapping[str, Any], record: RunRecord | None = None) -> Path:
    """Write `report.html`, `table.md` and `curve.svg` into the run's folder.

    Args:
        out: Folder of the run.
        summary: Summary that `run.main` returns.
        record: Record of the run, for its settings and times.

    Returns:
        Path of the page.
    """
    chart, table = _draw_curves(summary), _build_table(summary)
    write_text(out / "curve.svg", make_standalone(chart))
    write_text(out / "table.md", f"{to_markdown(table)}\n{LEGEND}\n")
    sections = [
        PageSection("Best of N", [chart]),
        PageSection("Parsing of the answers", [_build_outcome_table(summary)]),
        *([build_settings_section(record)] if record else []),
    ]
    return html.write_page(out / PAGE, Page(TITLE, list(_build_intro(summary, table)), sections))


def write_run_page(record: RunRecord) -> Path:
    """Write the page of a run of the study, finished or not, and return its path."""
    if record.summary is not None:
        return write_page(record.folder, record.summary, record)
    return write_steps_page(record, TITLE)


def _build_intro(summary: Mapping[str, Any], table: Table) -> Iterator[Block]:
    is_published = summary["is_paper_s"]
    yield (
        f"{summary['policy']} answered {summary['test']} questions about molecules of {summary['data']}. "
        f"{summary['judge']} judged the answers with the molecule as input, and chose among {summary['samples']} "
        f"answers per question. The question: “{summary['question']}”"
    )
    yield table
    constant_answer = (
        " The paper's metrics (arXiv 2505.18601) are for PAMPA, 407 molecules, where the constant answer “high” has an "
        f"accuracy of {ALWAYS} %."
    )
    yield Note(LEGEND + (constant_answer if is_published else ""))
    if dpo := summary["dpo"]:
        rate = f", learning rate at most {dpo['highest_learning_rate']:.1e}" if dpo["highest_learning_rate"] else ""
        paper = (
            "; the paper trained on 4,253 pairs of answers to other questions about molecules, in about 399 steps"
            if is_published
            else ""
        )
        yield f"DPO: {dpo['pairs']} pairs, {dpo['steps']} steps{rate}{paper}."
    yield from _build_notes(summary)
    if summary["left_out"]:
        reasons = ", ".join(f"{n} ({reason})" for reason, n in summary["left_out"].items())
        yield Note(f"Dropped rows: {reasons}.")


def _build_notes(summary: Mapping[str, Any]) -> Iterator[Block]:
    if summary.get("released_prompts"):
        yield Note(
            f"Prompts of the released file: {', '.join(summary['released_prompts'])}; the judge's are our wording."
        )
    else:
        yield Note("The prompts are our own wording, not that of the published scripts.")
    if summary.get("ignored_conformers"):
        yield Note("The conformers of the file are not used; ours are computed from the SMILES with a fixed seed.")
    if any("second_pass" in results for results in summary["styles"].values()):
        yield Note(SECOND_PASS)


def _build_outcome_table(summary: Mapping[str, Any]) -> Table:
    rows = []
    for style, results in summary["styles"].items():
        for step in ("greedy", "sampled", "dpo"):
            title = "samples" if step == "sampled" else STEPS[step]
            for outcome, count in results.get(step, {}).get("outcomes", {}).items():
                rows.append((style, title, outcome, count))
    return Table(("", "step", "outcome", "answers"), rows, text_columns=3)


def _build_table(summary: Mapping[str, Any]) -> Table:
    head, *rows = list_table_rows(summary)
    return Table(head, rows)


def list_table_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """List the header and the rows of the results, one row per style and step.

    The last column holds the published accuracy. It is left out for another task than the paper's.
    """
    is_published = summary["is_paper_s"]
    head = ("", "accuracy, %", "balanced, %", "MCC", "answered", "the paper's accuracy, % (best of 16)")
    majority_class, majority_share = summary["majority"]["class"], summary["majority"]["accuracy"]
    chance = 100 / summary["classes_seen"]
    constant_answer = (f"{100 * majority_share:.2f}", f"{chance:.2f}", "0.000", "", f"{ALWAYS:.2f}")
    rows: list[tuple[str, ...]] = [(f"always “{majority_class}”", *constant_answer)]
    for style, results in summary["styles"].items():
        n = max(results["best"], key=int, default="")
        published = dict(zip(STEPS, (f"{value:.2f}" for value in PAPER.get(style, ())), strict=False))
        # The published best-of-N is comparable at N = 16 only.
        if n != str(PAPER_SAMPLES):
            published.pop("best", None)
        for step, title in STEPS.items():
            metrics = results["best"].get(n) if step == "best" else results.get(step)
            if metrics is not None:
                cells = _format_cells(metrics, summary["test"])
                rows.append((f"{style}: {title.format(n=n)}", *cells, published.get(step, "")))
                rows += _list_second_pass_rows(summary, style, step, n, published.get(step, ""))
        if "gain" in results:
            gain = str(MetricValue.from_estimate(results["gain"], scale=100, sign="+"))
            rows.append((f"{style}: gain of DPO", gain, "", "", "", ""))
        if n:
            rows.append((f"{style}: pass@{n}", f"{100 * results['pass_at'][n]:.2f}", "", "", "", ""))
    return [head, *rows] if is_published else [head[:-1], *(row[:-1] for row in rows)]


def _list_second_pass_rows(
    summary: Mapping[str, Any], style: str, step: str, n: str, published: str
) -> Iterator[tuple[str, ...]]:
    """List the rows of a step after the second pass, if there was one."""
    results, title = summary["styles"][style], f"{style}: {STEPS[step].format(n=n)}, second pass"
    for reading, suffix in (("second_pass", ""), ("official", ", official reading")):
        metrics = results.get(reading, {}).get(step)
        if metrics and step == "best":
            metrics = metrics.get(n)
        if not metrics:
            continue
        cells = _format_cells(metrics, summary["test"])
        if reading == "official":
            # The published accuracy of first answers leaves out those without a class, so its interval is another one.
            share = metrics["accuracy" if step == "best" else "accuracy_answered"]
            cells = (str(as_number(share, scale=100)), *cells[1:])
        yield title + suffix, *cells, published


def _format_cells(metrics: Mapping[str, Any], molecules: int) -> tuple[str, ...]:
    interval = MetricValue.from_estimate(metrics["interval"], scale=100)
    accuracy = as_number(metrics["accuracy"], scale=100)
    return (
        f"{accuracy} ({interval.bounds})" if interval.bounds else str(accuracy),
        str(as_number(metrics["balanced_accuracy"], scale=100)),
        str(as_number(metrics["mcc"], digits=3)),
        f"{as_number(metrics['answered'], digits=0)} of {molecules}",
    )


def _draw_curves(summary: Mapping[str, Any]) -> Chart:
    sizes: list[str] = []
    series: list[Series] = []
    for colour, (style, results) in enumerate(summary["styles"].items()):
        sizes = sorted(results["best"], key=int)
        for metric in ("accuracy", "balanced_accuracy"):
            points = [Point.from_estimate(results["best"][n][metric], 100) for n in sizes]
            name = f"{style}, {metric.replace('_', ' ')}"
            series.append(Series(name, points, dashed=metric != "accuracy", colour=colour % 4))
    constant = Point(100 * summary["majority"]["accuracy"])
    series.append(Series("constant answer", [constant] * len(sizes), dashed=True, colour=4))
    note = "Balanced accuracy has dashed lines. Means over random subsets of N answers, with standard deviations."
    return draw_lines("Best of N", sizes, series, x_label="N samples", y_label="%", top=100, note=note)
