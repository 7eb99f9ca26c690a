"""Plots for HTML pages, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def render_svg(draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """Draw a plot as SVG with selectable text; equal data give equal files.

    Args:
        draw: function that draws into the axes.
        size: width and height in inches.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which keeps global state and needs a display backend

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "flex-judge", "font.family": "sans-serif"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def strip_prolog(svg: str) -> str:
    """Drop the XML declaration and the document type, which are invalid inside HTML."""
    return svg[svg.index("<svg") :]


def plot_curve(axes: Axes, sizes: Sequence[int], points: Sequence[Mapping[str, Any]], label: str, **style: Any) -> None:
    """Plot means with standard deviations, in percent, against the number of samples."""
    axes.errorbar(
        sizes,
        [100 * point["mean"] for point in points],
        yerr=[100 * (point["deviation"] or 0.0) for point in points],
        marker="o",
        capsize=3,
        label=label,
        **style,
    )


def label_sample_axes(axes: Axes, sizes: Sequence[int], y_label: str, **legend: Any) -> None:
    """Set up the axes of a curve over the number of samples: log scale for x, 0 to 100 % for y."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.set_xlabel("N samples")
    axes.set_ylabel(y_label)
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, **legend)
