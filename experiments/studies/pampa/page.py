"""The page of a case study, and its table and plot as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    "No answer is a wrong one. In brackets are 95 % intervals over molecules. Of the best of N a figure is the mean "
    "over draws of N answers, ± its standard deviation, which goes to nothing where nothing is left to draw. "
    "Balanced accuracy is the mean over classes, MCC is Matthews' correlation: of who always says the same, both are "
    "those of chance."
)
_COLOURS = ("#2f6f4e", "#b08a3c", "#4a6fa5")


def write_page(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write `pampa.html`, `table.md` and `curve.svg` into the run's folder.

    Args:
        summary: that of `run.main`.

    Returns:
        The page.
    """
    import jinja2

    plot = _svg(summary)
    rows = table(summary)
    write_text(out / "curve.svg", plot)
    write_text(out / "table.md", f"{_markdown(rows)}\n{LEGEND}\n")
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("flex_judge.experiments.common.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = env.get_template("pampa.html").render(
        s=summary,
        plot=plot[plot.index("<svg") :],
        table=rows,
        legend=LEGEND,
        always=ALWAYS,
        read=[
            (style, STEPS[step].format(n=1) if step != "sampled" else "samples", outcome, count)
            for style, found in summary["styles"].items()
            for step in ("greedy", "sampled", "dpo")
            for outcome, count in found.get(step, {}).get("outcomes", {}).items()
        ],
    )
    write_text(out / "pampa.html", page)
    return out / "pampa.html"


def table(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
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
                rows.append((f"{style}: {words.format(n=n)}", *_cells(figures, summary["test"]), paper.get(step, "")))
        if "gain" in found:
            rows.append((f"{style}: DPO gains", _with_interval(found["gain"], "+.2f"), "", "", "", ""))
        if n:
            rows.append((f"{style}: any of {n} is right", f"{100 * found['any'][n]:.2f}", "", "", "", ""))
    return [head, *rows] if summary["is_paper_s"] else [head[:-1], *(row[:-1] for row in rows)]


def _cells(figures: Mapping[str, Any], count: int) -> tuple[str, ...]:
    return (
        _told(figures["accuracy"], 100, 2) + _between(figures["interval"]),
        _told(figures["balanced_accuracy"], 100, 2),
        _told(figures["mcc"], 1, 3),
        f"{_told(figures['answered'], 1, 0)} of {count}",
    )


def _with_interval(estimate: Mapping[str, Any], form: str = ".2f") -> str:
    return f"{100 * estimate['value']:{form}}{_between(estimate)}"


def _between(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["low"], estimate["high"]
    return "" if low is None else f" ({100 * low:.2f} to {100 * high:.2f})"


def _told(value: Any, scale: float, digits: int) -> str:
    """A figure, or a mean over draws with its deviation."""
    if not isinstance(value, Mapping):
        return f"{scale * value:.{digits}f}"
    if value["mean"] is None:
        return "–"
    spread = "" if not value["deviation"] else f" ± {scale * value['deviation']:.{digits}f}"
    return f"{scale * value['mean']:.{digits}f}{spread}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest]) + "\n"


def _svg(summary: Mapping[str, Any]) -> str:
    """Accuracy and balanced accuracy of the best of N, as SVG; the same figures give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flex-judge", "font.family": "sans-serif"}):
        drawn = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = drawn.subplots()
        _curves(axes, summary)
        axes.spines[["top", "right"]].set_visible(False)
        text = StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _curves(axes: Axes, summary: Mapping[str, Any]) -> None:
    sizes: list[int] = []
    for k, (style, found) in enumerate(summary["styles"].items()):
        sizes = sorted(map(int, found["best"]))
        for measure, line in (("accuracy", "-"), ("balanced_accuracy", ":")):
            points = [found["best"][str(n)][measure] for n in sizes]
            axes.errorbar(
                sizes,
                [100 * one["mean"] for one in points],
                yerr=[100 * (one["deviation"] or 0.0) for one in points],
                marker="o",
                capsize=3,
                linestyle=line,
                color=_COLOURS[k % len(_COLOURS)],
                label=f"{style}, {measure.replace('_', ' ')}",
            )
    axes.axhline(100 * summary["majority"]["accuracy"], color="#8a8a8a", linestyle="--", label="always the same")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlabel("N samples")
    axes.set_ylabel("%")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=8, ncols=2)
