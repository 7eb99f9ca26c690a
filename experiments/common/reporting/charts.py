"""Charts as inline SVG: bars and lines that follow the colours of the page and need no script."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from typing import Any

from flex_judge.alignment.reporting.model import MetricValue, Table, TableRow, as_number
from flex_judge.experiments.common.reporting.blocks import Chart, shorten_line, show_hidden_characters

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 24, 46
STANDALONE_STYLE = (
    "<style>svg{--ink:#1c2126;--quiet:#59636b;--line:#dcdfda;--mute:#98a2a9;--c0:#0a6b60;--c1:#a94a16;--c2:#3b5bab;"
    "--c3:#7a4a86;font-family:system-ui,sans-serif}@media(prefers-color-scheme:dark){svg{--ink:#e7e9ea;--quiet:#a4adb4;"
    "--line:#30363c;--mute:#6b757d;--c0:#5fc7b7;--c1:#ec9a70;--c2:#8fadf0;--c3:#cc9ed8}}text{font-size:12.5px;"
    "fill:var(--quiet)}.guide{stroke:var(--line)}.base{stroke:var(--mute)}.k0{--k:var(--c0)}.k1{--k:var(--c1)}"
    ".k2{--k:var(--c2)}.k3{--k:var(--c3)}.k4{--k:var(--mute)}.curve{fill:none;stroke:var(--k);stroke-width:2}"
    ".dash{stroke-dasharray:5 4}.dot,.bar-fill{fill:var(--k)}.whisker{stroke:var(--k)}</style>"
)
"""Style of a chart in a file of its own; on pages the style sheet has these rules."""


@dataclass(frozen=True)
class Point:
    """Value of a series, with the ends of its interval."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def from_estimate(cls, estimate: Mapping[str, Any] | None, scale: float = 1.0) -> Point:
        """Create a point from an estimate in JSON, see `MetricValue.from_estimate`.

        Args:
            estimate: value with its interval, or with a standard deviation, which then gives the ends; None without.
            scale: factor of all numbers.
        """
        metric = MetricValue(None) if estimate is None else MetricValue.from_estimate(estimate)
        ends = (metric.low, metric.high)
        if ends == (None, None) and metric.value is not None and metric.deviation:
            ends = (metric.value - metric.deviation, metric.value + metric.deviation)
        return cls(*(None if number is None else scale * number for number in (metric.value, *ends)))


@dataclass(frozen=True)
class Series:
    """Named values, one for each label of the horizontal axis."""

    name: str
    points: Sequence[Point]
    dashed: bool = False
    colour: int | None = None
    """Number of the colour, 0 to 4; None for the number of the series."""


def draw_lines(
    title: str,
    labels: Sequence[str],
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    top: float | None = None,
    digits: int = 1,
    joined: bool = True,
    note: str = "",
) -> Chart:
    """Draw values with their intervals over labels.

    Args:
        title: caption of the chart.
        labels: labels of the horizontal axis.
        series: values; None is left out.
        x_label: name of the horizontal axis.
        y_label: name of the vertical axis, with the unit.
        top: upper end of the vertical axis, which then starts at 0; None takes the range of the values.
        digits: number of decimals in the table.
        joined: whether the points of a series are joined by lines.
        note: sentence below the chart.
    """
    values = [v for s in series for p in s.points for v in (p.value, p.low, p.high) if v is not None]
    ticks = (
        _choose_ticks(0.0, top) if top is not None else _choose_ticks(min(values, default=0), max(values, default=1))
    )
    parts = list(_draw_axes(ticks, labels, x_label, y_label))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    colours = [i % 4 if line.colour is None else line.colour for i, line in enumerate(series)]
    for number, (line, colour) in enumerate(zip(series, colours, strict=True)):
        # Points of several series side by side, so that their intervals do not cover one another.
        shift = 0.0 if joined and len(labels) > 1 else (number - (len(series) - 1) / 2) * min(26.0, step / 4)
        places = [
            (LEFT + (i + 0.5) * step + shift, _place(p.value, ticks), p)
            for i, p in enumerate(line.points)
            if p.value is not None
        ]
        if joined and len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in places)
            dash = " dash" if line.dashed else ""
            parts.append(f'<polyline class="curve k{colour}{dash}" points="{path}"/>')
        for x, y, point in places:
            if point.low is not None and point.high is not None:
                low, high = _place(point.low, ticks), _place(point.high, ticks)
                parts.append(
                    f'<line class="whisker k{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
                )
            parts.append(f'<circle class="dot k{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>')
    rows: list[TableRow] = [
        (label, *(as_number(s.points[i].value, digits=digits) for s in series)) for i, label in enumerate(labels)
    ]
    legend = series if len(series) > 1 else ()
    for i, line in enumerate(legend):
        y = HEIGHT + 14 + 20 * i
        parts.append(f'<rect class="bar-fill k{colours[i]}" x="{LEFT}" y="{y - 9}" width="14" height="9"/>')
        parts.append(f'<text x="{LEFT + 21}" y="{y}">{escape(shorten_line(line.name, 60))}</text>')
    svg = _wrap_svg(parts, title, HEIGHT + 20 * len(legend) + 4)
    return Chart(svg, Table((x_label, *(s.name for s in series)), rows), title, note)


def draw_bars(
    title: str, counts: Sequence[tuple[str, int]], *, label: str, unit: str, note: str = "", colour: int = 0
) -> Chart:
    """Draw counts as vertical bars.

    Args:
        title: caption of the chart.
        counts: label and height of each bar.
        label: name of the horizontal axis.
        unit: what is counted, in the plural.
        note: sentence below the chart.
        colour: number of the colour, 0 to 4.
    """
    ticks = _choose_ticks(0.0, max((count for _, count in counts), default=1) or 1, whole=True)
    parts = list(_draw_axes(ticks, [name for name, _ in counts], label, unit))
    step = (WIDTH - LEFT - RIGHT) / max(1, len(counts))
    for i, (name, count) in enumerate(counts):
        if count:
            y = _place(count, ticks)
            parts.append(
                f'<rect class="bar-fill k{colour}" x="{LEFT + (i + 0.1) * step:.1f}" y="{y:.1f}" '
                f'width="{0.8 * step:.1f}" height="{HEIGHT - BOTTOM - y:.1f}">'
                f"<title>{escape(name)}: {count:,}</title></rect>"
            )
    return Chart(_wrap_svg(parts, title, HEIGHT), Table((label, unit), counts), title, note)


def draw_scores(scores: Sequence[float], *, unit: str = "responses", note: str = "") -> Chart:
    """Draw the distribution of the written scores of a run; `unit` is what has the scores, in the plural."""
    return draw_bars("Written scores", count_values(scores), label="score", unit=unit, note=note)


def draw_rows(title: str, counts: Sequence[tuple[str, int]], *, label: str, unit: str) -> Chart:
    """Draw counts as horizontal bars, each below its label, for labels that are too long for an axis.

    Args:
        title: caption of the chart.
        counts: label and length of each bar.
        label: what the labels are.
        unit: what is counted, in the plural.
    """
    highest = max((count for _, count in counts), default=1) or 1
    parts = []
    for i, (name, count) in enumerate(counts):
        y = 14 + 36 * i
        parts.append(f'<text x="0" y="{y}">{escape(shorten_line(name, 52))}</text>')
        parts.append(f'<text x="{WIDTH - 2}" y="{y}" text-anchor="end">{count:,}</text>')
        parts.append(f'<line class="guide" x1="0" x2="{WIDTH}" y1="{y + 12}" y2="{y + 12}"/>')
        width = WIDTH * count / highest
        parts.append(f'<rect class="bar-fill k0" x="0" y="{y + 6}" width="{width:.1f}" height="11"/>')
    return Chart(_wrap_svg(parts, title, 36 * len(counts) + 4), Table((label, unit), counts), title)


def make_standalone(chart: Chart) -> str:
    """Make the content of an SVG file from a chart, with the colours that a page would give it."""
    start = chart.svg.index(">") + 1
    head = chart.svg[:start].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{head}{STANDALONE_STYLE}{chart.svg[start:]}\n"


def count_values(values: Sequence[float], bins: int = 20) -> list[tuple[str, int]]:
    """Count values for a histogram: one bar per whole number if all are whole and few, else bars of equal width."""
    if not values:
        return []
    low, high = math.floor(min(values)), math.ceil(max(values))
    if all(value == round(value) for value in values) and high - low < bins:
        numbers = Counter(values)
        return [(str(number), numbers[number]) for number in range(low, high + 1)]
    span = max(high - low, 1)
    width = next(w for k in range(-2, 12) for w in (10.0**k, 2.5 * 10.0**k, 5 * 10.0**k) if span / w <= bins)
    counts = [0] * math.ceil(span / width - 1e-9)
    for value in values:
        counts[min(len(counts) - 1, int((value - low) / width + 1e-9))] += 1
    return [(f"{low + i * width:g} to {low + (i + 1) * width:g}", count) for i, count in enumerate(counts)]


def _draw_axes(ticks: Sequence[float], labels: Sequence[str], x_label: str, y_label: str) -> list[str]:
    parts = []
    for i, tick in enumerate(ticks):
        y = _place(tick, ticks)
        kind = "guide" if i else "base"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    step = (WIDTH - LEFT - RIGHT) / max(1, len(labels))
    every = max(1, math.ceil(max(map(len, labels), default=1) * 8.5 / step)) if labels else 1
    for i, name in enumerate(labels):
        if i % every == 0:
            text = escape(shorten_line(name, 24))
            parts.append(
                f'<text x="{LEFT + (i + 0.5) * step:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'
            )
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text x="2" y="{TOP - 9}">{escape(y_label)}</text>')
    return parts


def _wrap_svg(parts: Sequence[str], title: str, height: int) -> str:
    name = escape(f"Chart: {title}; the table below has the same numbers")
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _place(value: float, ticks: Sequence[float]) -> float:
    """Return the vertical place of a value, within the chart."""
    low, high = ticks[0], ticks[-1]
    share = min(1.0, max(0.0, (value - low) / (high - low)))
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM - 8)


def _choose_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Choose at most 6 round values that include a range."""
    span = (high - low) or abs(high) or 1.0
    exponent = math.floor(math.log10(span)) - 1
    steps = (m * 10.0**k for k in range(exponent, exponent + 4) for m in (1, 2, 2.5, 5))
    step = next(s for s in steps if span / s <= 5 and (not whole or s == round(s)))
    start = math.floor(low / step + 1e-9)
    end = max(start + 1, math.ceil(high / step - 1e-9))
    return [round(k * step, 12) for k in range(start, end + 1)]


def escape(text: str) -> str:
    """Escape a text for SVG, which the page does not escape again."""
    return escape_html(show_hidden_characters(text))
