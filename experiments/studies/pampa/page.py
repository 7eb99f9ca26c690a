"""The page of the PAMPA case study, and its table and plot as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import Block, Figure, MetricValue, Note, Report, Section, Table, as_number
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.plots import label_sample_axes, plot_curve, render_svg, strip_prolog
from flex_judge.judges.io.jsonl import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = {"default": (63.55, 68.85, 76.41), "cot": (64.37, 69.83, 75.92), "task-info": (72.48, 77.49, 80.10)}
"""arXiv 2505.18601: accuracy in percent on PAMPA (407 molecules) of Mol-LLaMA, of the best of 16 of its answers by
Flex-Mol-LLaMA, and after DPO."""
ALWAYS = 84.52
"""Accuracy there of who always answers `high`, in percent: above every published figure."""
PAPER_SAMPLES = 16
STEPS = {"greedy": "greedy", "best": "best of {n}", "dpo": "greedy, after DPO"}
LEGEND = (
    "A missing answer counts as wrong. In brackets: 95 % intervals over molecules. A metric of best-of-N is the mean "
    "over random subsets of N answers, ± its standard deviation, which is 0 if N is the number of all answers. "
    "Balanced accuracy is the mean over classes, MCC is Matthews' correlation coefficient; a constant answer has the "
    "values of chance in both."
)
_COLOURS = ("#2f6f4e", "#b08a3c", "#4a6fa5")


def write_page(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write `pampa.html`, `table.md` and `curve.svg` into the run's folder.

    Args:
        out: the folder.
        summary: the summary that `run.main` returns.

    Returns:
        The path of the page.
    """
    plot = render_svg(lambda axes: _plot_curves(axes, summary), (6.4, 3.6))
    rows = _build_table(summary)
    write_text(out / "curve.svg", plot)
    write_text(out / "table.md", f"{to_markdown(rows)}\n{LEGEND}\n")
    intro = _build_intro(summary, rows)
    sections = [
        Section("The best of N", [Figure(strip_prolog(plot))]),
        Section("Parsing of the answers", [_build_outcome_table(summary)]),
    ]
    return html.write_page(out / "pampa.html", Report("Molecules, answered and judged", intro, sections))


def _build_intro(summary: Mapping[str, Any], rows: Table) -> Iterator[Block]:
    yield (
        f"{summary['policy']} answered {summary['test']} questions about molecules of {summary['data']}; "
        f"{summary['model']} judged the answers with the molecule as input, and chose among {summary['samples']} of "
        f"them. The question: “{summary['question']}”"
    )
    yield rows
    always = (
        f" The paper's metrics (arXiv 2505.18601) are for PAMPA, 407 molecules, where always answering “high” is right "
        f"on {ALWAYS} %."
    )
    yield Note(LEGEND + (always if summary["is_paper_s"] else ""))
    if dpo := summary["dpo"]:
        rate = dpo["highest_learning_rate"]
        paper = (
            "; the paper's had 4,253 pairs of answers to other questions about molecules, and about 399 steps"
            if summary["is_paper_s"]
            else ""
        )
        rate_text = f", a learning rate of at most {rate:.1e}" if rate else ""
        yield f"DPO: {dpo['pairs']} pairs, {dpo['steps']} steps{rate_text}{paper}."
    if summary["left_out"]:
        yield Note("Rows left out: " + ", ".join(f"{n} ({reason})" for reason, n in summary["left_out"].items()) + ".")


def _build_outcome_table(summary: Mapping[str, Any]) -> Table:
    rows = [
        (style, STEPS[step].format(n=1) if step != "sampled" else "samples", outcome, n)
        for style, steps in summary["styles"].items()
        for step in ("greedy", "sampled", "dpo")
        for outcome, n in steps.get(step, {}).get("outcomes", {}).items()
    ]
    return Table(("", "step", "outcome", "answers"), rows, text_columns=3)


def _build_table(summary: Mapping[str, Any]) -> Table:
    head, *rows = list_table_rows(summary)
    return Table(head, rows)


def list_table_rows(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Header, and a row of each step of each style, with the paper's accuracy beside where there is one."""
    head = ("", "accuracy, %", "balanced, %", "MCC", "answered", "the paper's accuracy, % (best of 16)")
    name, share = summary["majority"]["class"], summary["majority"]["accuracy"]
    alike = 100 / summary["classes_seen"]
    always = f"{ALWAYS:.2f}" if summary["is_paper_s"] else ""
    rows: list[tuple[str, ...]] = [(f"always “{name}”", f"{100 * share:.2f}", f"{alike:.2f}", "0.000", "", always)]
    for style, found in summary["styles"].items():
        n = max(found["best"], key=int, default="")
        figures_there = PAPER.get(style, ()) if summary["is_paper_s"] else ()
        paper = dict(zip(STEPS, (f"{one:.2f}" for one in figures_there), strict=False))
        if n != str(PAPER_SAMPLES):
            paper.pop("best", None)
        for step, words in STEPS.items():
            figures = found["best"].get(n) if step == "best" else found.get(step)
            if figures is not None:
                rows.append(
                    (f"{style}: {words.format(n=n)}", *_format_cells(figures, summary["test"]), paper.get(step, ""))
                )
        if "gain" in found:
            rows.append(
                (
                    f"{style}: DPO gains",
                    str(MetricValue.from_estimate(found["gain"], scale=100, sign="+")),
                    "",
                    "",
                    "",
                    "",
                )
            )
        if n:
            rows.append((f"{style}: pass@{n}", f"{100 * found['pass_at'][n]:.2f}", "", "", "", ""))
    return [head, *rows] if summary["is_paper_s"] else [head[:-1], *(row[:-1] for row in rows)]


def _format_cells(metrics: Mapping[str, Any], asked: int) -> tuple[str, ...]:
    interval = MetricValue.from_estimate(metrics["interval"], scale=100)
    accuracy = as_number(metrics["accuracy"], scale=100)
    return (
        f"{accuracy} ({interval.bounds})" if interval.bounds else str(accuracy),
        str(as_number(metrics["balanced_accuracy"], scale=100)),
        str(as_number(metrics["mcc"], digits=3)),
        f"{as_number(metrics['answered'], digits=0)} of {asked}",
    )


def _plot_curves(axes: Axes, summary: Mapping[str, Any]) -> None:
    sizes: list[int] = []
    for k, (style, found) in enumerate(summary["styles"].items()):
        sizes = sorted(map(int, found["best"]))
        for measure, line in (("accuracy", "-"), ("balanced_accuracy", ":")):
            points = [found["best"][str(n)][measure] for n in sizes]
            style_of_line = {"linestyle": line, "color": _COLOURS[k % len(_COLOURS)]}
            plot_curve(axes, sizes, points, f"{style}, {measure.replace('_', ' ')}", **style_of_line)
    axes.axhline(100 * summary["majority"]["accuracy"], color="#8a8a8a", linestyle="--", label="always the same")
    label_sample_axes(axes, sizes, "%", fontsize=8, ncols=2)
