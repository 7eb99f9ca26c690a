"""The page of a loop, and its table and plots as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.best_of_n.metrics import interval
from flex_judge.experiments.common.reporting.wording import percent
from flex_judge.experiments.studies.arithmetic_loop.card import FIGURES, figure
from flex_judge.judges.io.jsonl import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER = (
    ("Mol-LLaMA, answers by default", 63.55, 68.85, 76.41),
    ("Mol-LLaMA, chain of thought", 64.37, 69.83, 75.92),
    ("Mol-LLaMA, told of the task", 72.48, 77.49, 80.10),
)
"""arXiv 2505.18601, molecules: accuracy in percent on PAMPA (407 molecules) of the policy, of the best of 16 of its
answers by Flex-Mol-LLaMA, and after DPO."""
LEGEND = (
    "±: standard deviation over seeds, all with the same judge and questions. In brackets: 95 % interval over "
    "questions of the mean over seeds. PAMPA is another task, another policy and a larger judge; always answering "
    "`high` is right on 84.52 % of it."
)
JUDGE_COLOUR, CEILING_COLOUR, START_COLOUR = "#2f6f4e", "#8a8a8a", "#b08a3c"


def write_page(out: Path, summary: Mapping[str, Any]) -> Path:
    """Write `loop.html`, `table.md`, `curve.svg` and `gain.svg` into the run's folder.

    Args:
        summary: that of `loop.main`.

    Returns:
        The page.
    """
    import jinja2

    plots = {"curve": _svg(lambda axes: _curve(axes, summary)), "gain": _svg(lambda axes: _gain(axes, summary))}
    for name, plot in plots.items():
        write_text(out / f"{name}.svg", plot)
    rows = table(summary)
    write_text(out / "table.md", f"{_markdown(rows)}\n{LEGEND}\n")
    env = jinja2.Environment(
        loader=jinja2.PackageLoader("flex_judge.experiments.common.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    evaluation = summary["evaluation"]
    page = env.get_template("loop.html").render(
        s=summary,
        plots={name: plot[plot.index("<svg") :] for name, plot in plots.items()},
        table=rows,
        evaluation=evaluation
        and [(title, *(figure(evaluation[who], path) for who in ("base", "judge"))) for title, path in FIGURES],
        legend=LEGEND,
        percent=percent,
        points=_points,
    )
    write_text(out / "loop.html", page)
    return out / "loop.html"


def table(summary: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The loop beside the paper's: header and rows of task, policy, best of N, and policy after DPO."""
    curve, greedy = summary["curve"], summary["greedy"]
    n = max(curve["best"], key=int)
    best, start = curve["best"][n], curve["random"]
    ours = (
        "Embedded task, sampled",
        f"{100 * start['mean']:.1f}",
        f"{100 * best['mean']:.1f}{_spread(best)}",
        "",
    )
    tuned = (
        "Embedded task, greedy",
        f"{100 * greedy['before']['value']:.1f}",
        "",
        _points(greedy["after"]),
    )
    paper = [(f"PAMPA: {name} (paper)", *(f"{value:.2f}" for value in values)) for name, *values in PAPER]
    return [("accuracy, %", "policy", f"best of {n}; paper: of 16", "after DPO"), ours, tuned, *paper]


def _points(found: Mapping[str, Any]) -> str:
    """An estimate of a share, in points."""
    return interval(found, 100).replace(" %", "")


def _spread(found: Mapping[str, Any]) -> str:
    return "" if found["deviation"] is None else f" ± {100 * found['deviation']:.1f}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *rest]) + "\n"


def _svg(draw: Any) -> str:
    """A plot as SVG; its letters are text, and the same figures give the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flex-judge", "font.family": "sans-serif"}):
        drawn = Figure(figsize=(5.2, 3.4), layout="constrained")
        axes = drawn.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        text = StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _curve(axes: Axes, summary: Mapping[str, Any]) -> None:
    curve = summary["curve"]
    sizes = sorted(map(int, curve["best"]))
    for name, label, colour in (
        ("any", "any of N is right", CEILING_COLOUR),
        ("best", "best of N, by the judge", JUDGE_COLOUR),
    ):
        found = [curve[name][str(n)] for n in sizes]
        axes.errorbar(
            sizes,
            [100 * one["mean"] for one in found],
            yerr=[100 * (one["deviation"] or 0.0) for one in found],
            marker="o",
            capsize=3,
            color=colour,
            label=label,
        )
    axes.axhline(100 * curve["random"]["mean"], color=START_COLOUR, linestyle="--", label="one sample")
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlabel("N samples")
    axes.set_ylabel("right answers, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)


def _gain(axes: Axes, summary: Mapping[str, Any]) -> None:
    """Greedy accuracy before and after, each seed and all of them."""
    runs = [*summary["runs"], summary["greedy"]]
    names = [*(f"seed {k}" for k in range(len(summary["runs"]))), "mean"]
    for k, run in enumerate(runs):
        for shift, when, colour in ((-0.15, "before", START_COLOUR), (0.15, "after", JUDGE_COLOUR)):
            found = run[when]
            low, high = (found[end] if found[end] is not None else found["value"] for end in ("low", "high"))
            axes.errorbar(
                [k + shift],
                [100 * found["value"]],
                yerr=[[100 * (found["value"] - low)], [100 * (high - found["value"])]],
                marker="o",
                capsize=3,
                color=colour,
                label={"before": "before", "after": "after DPO"}[when] if k == 0 else None,
            )
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("right greedy answers, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False)
