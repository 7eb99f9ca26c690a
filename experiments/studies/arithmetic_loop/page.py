"""Report of the arithmetic loop as an HTML page, with its table and plots as files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import (
    Block,
    Figure,
    MetricValue,
    Note,
    Report,
    Section,
    Table,
    TableRow,
    as_number,
)
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.plots import label_sample_axes, plot_curve, render_svg, strip_prolog
from flex_judge.experiments.common.reporting.wording import format_count, format_percent
from flex_judge.experiments.studies.arithmetic_loop.card import build_evaluation_table
from flex_judge.judges.io.jsonl import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
JUDGE_COLOUR, CEILING_COLOUR, START_COLOUR = "#2f6f4e", "#8a8a8a", "#b08a3c"


def write_page(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write `loop.html`, `table.md`, `curve.svg` and `gain.svg` into the run's folder.

    Args:
        out: Folder of the run.
        summary: Summary that `loop.main` returns.

    Returns:
        Path of the page.
    """
    plots = {
        "curve": render_svg(lambda axes: _plot_best_of_n(axes, summary), (5.2, 3.4)),
        "gain": render_svg(lambda axes: _plot_gain(axes, summary), (5.2, 3.4)),
    }
    for name, plot in plots.items():
        write_text(out / f"{name}.svg", plot)
    write_text(out / "table.md", f"{to_markdown(build_comparison_table(summary))}\n{LEGEND}\n")
    return html.write_page(out / "loop.html", _build_report(summary, plots))


def _build_report(summary: Mapping[str, Any], plots: Mapping[str, str]) -> Report:
    greedy = summary["greedy"]
    before, after = format_percent(greedy["before"]["value"]), format_percent(greedy["after"]["value"])
    intro: list[Block] = [
        f"The judge ({summary['judge']}) chose among the answers of the policy ({summary['policy']}). The policy was "
        "tuned on these choices and evaluated on other questions. The task is arithmetic, so the right answers are "
        "known; they are used for the evaluation only, and the judge does not see them. The embedded judge was trained "
        "on synthetic judgments of answers of this policy, written by a program. Its training data contains no "
        "calculation of the questions on which it is evaluated.",
        f"Greedy accuracy: {before} before DPO, {after} after DPO, a difference of "
        f"{_format_points(greedy['difference'])} points (mean of {format_count(summary['seeds'], 'seed')}, "
        f"{greedy['before']['count']} held-out questions; 95 % interval over questions).",
        Figure(
            strip_prolog(plots["curve"]),
            f"Best of N on {summary['curve_questions']} held-out questions",
            "Means over seeds with standard deviations. Every N uses a subset of the same samples.",
        ),
        Figure(strip_prolog(plots["gain"]), "Policy before and after DPO", "95 % intervals over questions."),
    ]
    paper = Note(
        f"{LEGEND} Compare the gains, not the levels: the gain of best-of-N over the policy, and the gain of DPO on "
        "the chosen answers (arXiv 2505.18601)."
    )
    sections = [
        Section("Comparison with the published case study on molecules", [build_comparison_table(summary), paper])
    ]
    if summary["evaluation"]:
        sections.append(Section("Evaluation of the judge", [build_evaluation_table(summary["evaluation"])]))
    sections.append(Section("Seeds", _list_seeds(summary)))
    return Report("The arithmetic loop", intro, sections)


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


def _plot_best_of_n(axes: Axes, summary: Mapping[str, Any]) -> None:
    curve = summary["curve"]
    sizes = sorted(map(int, curve["best"]))
    for name, label, colour in (
        ("pass_at", "pass@N", CEILING_COLOUR),
        ("best", "best of N by the judge", JUDGE_COLOUR),
    ):
        plot_curve(axes, sizes, [curve[name][str(n)] for n in sizes], label, color=colour)
    axes.axhline(100 * curve["random"]["mean"], color=START_COLOUR, linestyle="--", label="one sample")
    label_sample_axes(axes, sizes, "right answers, %")


def _plot_gain(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Plot the greedy accuracy before and after DPO for each seed and for the mean."""
    runs = [*summary["runs"], summary["greedy"]]
    names = [*(f"seed {k}" for k in range(len(summary["runs"]))), "mean"]
    for k, run in enumerate(runs):
        for shift, key, label, colour in (
            (-0.15, "before", "before DPO", START_COLOUR),
            (0.15, "after", "after DPO", JUDGE_COLOUR),
        ):
            estimate = run[key]
            # Without an interval the error bar has length 0.
            low, high = (estimate[end] if estimate[end] is not None else estimate["value"] for end in ("low", "high"))
            axes.errorbar(
                [k + shift],
                [100 * estimate["value"]],
                yerr=[[100 * (estimate["value"] - low)], [100 * (high - estimate["value"])]],
                marker="o",
                capsize=3,
                color=colour,
                label=label if k == 0 else None,
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("right greedy answers, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
