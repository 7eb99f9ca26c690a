"""What `flex-judge eval` shows: a table for a person, or one JSON object for a program."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.experiments.commands.judge.view import printable
from flex_judge.experiments.common.reporting import wording

METRICS = {
    "agreement": "agreement",
    "accuracy": "accuracy",
    "without_ties": "items labelled a tie left out",
    "decided": "ties left out",
    "majority": "majority of runs",
    "macro": "mean of groups",
    "macro_without_ties": "mean of groups, without ties",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "f1": "F1 (macro)",
    "consistency": "same in every order",
    "pearson": "Pearson, mean of sources",
    "pearson_all": "Pearson, all items",
    "distance": "Levenshtein, mean of sources",
    "distance_all": "Levenshtein, all items",
    "lcc": "LCC",
    "srcc": "SRCC",
    "mse": "MSE",
    "system_lcc": "system LCC",
    "system_srcc": "system SRCC",
    "system_mse": "system MSE",
    "overall": "overall",
}
"""What figures are called."""
_MOST_GROUPS = 30
_WITHOUT_TIES = {
    "decided": ("accuracy", "agreement"),
    "without_ties": ("accuracy", "agreement"),
    "macro_without_ties": ("macro",),
}
"""Figures that leave ties out, and those that they are the same as where there is none."""


def print_json(summary: Mapping[str, Any]) -> None:
    """The summary as one JSON object on one line, without the texts of items; they are in the run's folder."""
    tasks = {name: {k: v for k, v in task.items() if k != "worst"} for name, task in summary["tasks"].items()}
    print(json.dumps({**summary, "tasks": tasks}))


def print_summary(summary: Mapping[str, Any]) -> None:
    """The figures of a run, and what was not judged."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for name, task in summary["tasks"].items():
        table = Table(title=Text(f"{summary['benchmark']}, {name}: {wording.count(task['items'], 'item')}"))
        for column in ("", "value", "95 % interval", "missing as wrong", "scored"):
            table.add_column(column, justify="left" if not column else "right")
        for metric, figure in task["figures"].items():
            table.add_row(metric_title(metric), *_cells(figure))
        for grouping, groups in task["tables"].items():
            if len(groups) <= _MOST_GROUPS:
                for group, figure in groups.items():
                    table.add_row(Text(printable(f"  {grouping} {group}")), *_cells(figure))
        console.print(table)
    for name, words in (("overall", "overall"), ("majority", "overall, by majority of runs")):
        if name in summary:
            console.print(f"{words}, the mean of the tasks: {number(summary[name])}")
    if published := published_table(summary):
        header, *rows = published
        table = Table(title="beside the published figures")
        for column in header:
            table.add_column(column, justify="left" if column in ("", "source") else "right")
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))
        console.print(table)
    for line in summary_lines(summary):
        console.print(Text(printable(line)))
    if summary["out"]:
        console.print(Text(f"report: {Path(summary['out']) / 'report.html'}"), soft_wrap=True)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """What else there is to know, a line each."""
    lines = []
    if summary["unscored"]:
        told = ", ".join(f"{times} {why}" for why, times in summary["unscored"].items())
        lines.append(f"without a verdict: {told} (of {wording.count(summary['judgments'], 'judgment')})")
    lines += [f"not judged: {why}" for why in summary["examples_not_judged"]]
    lines += [f"left out: {wording.count(times, 'item')}: {why}" for why, times in summary["left_out"].items()]
    lines += [f"note: {note}" for note in summary["notes"]]
    return lines


def metric_title(name: str) -> str:
    """A metric's name in words; of a group's figure, the group."""
    return METRICS.get(name) or name.partition(".")[2] or name


def number(value: float | None) -> str:
    """A figure with the digits that published ones have."""
    return "–" if value is None else f"{value:.4f}"


def bounds(figure: Mapping[str, Any]) -> str:
    """The interval of a figure."""
    return "" if figure["low"] is None else f"{figure['low']:.4f} to {figure['high']:.4f}"


def of_all(figure: Mapping[str, Any]) -> str:
    """A figure with what has no verdict counted as wrong; where that is another one, with its interval."""
    text = number(figure["strict"])
    if figure["strict"] in (None, figure["value"]) or figure["strict_low"] is None:
        return text
    return f"{text} ({figure['strict_low']:.4f} to {figure['strict_high']:.4f})"


def exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """0, or 1 where more items than `max_failures` were not judged."""
    return int(summary["not_judged"] > max_failures)


def published_table(summary: Mapping[str, Any]) -> list[list[str]]:
    """This judge's figures above the published ones: a header, and rows of cells. Empty where none were published."""
    published: Sequence[Mapping[str, Any]] = summary["published"]
    names = list(dict.fromkeys(name for one in published for name in one["figures"]))
    if not names:
        return []
    several = len({name.partition(".")[0] for name in names if "." in name}) > 1
    titles = [
        f"{task}: {metric_title(metric)}" if several and metric else metric_title(metric or task)
        for task, _, metric in (name.partition(".") for name in names)
    ]
    rows = [["", *titles, "source"], [str(summary["judge"]), *(_ours(summary, name) for name in names), "this run"]]
    for one in published:
        cells = [number(one["figures"][name]) if name in one["figures"] else "" for name in names]
        rows.append([one["judge"], *cells, one["source"]])
    return rows


def figure_named(summary: Mapping[str, Any], name: str) -> float | None:
    """A figure of a run by `task.figure`, `task.grouping.group`, or `overall`; None where the run has none."""
    task, _, rest = name.partition(".")
    if not rest:
        value = summary.get(name)
        return value if isinstance(value, int | float) else None
    found = summary["tasks"].get(task)
    if not found:
        return None
    figures = found["figures"]
    figure = figures.get(rest)
    if figure is None and rest in _WITHOUT_TIES:  # nothing was tied, so it is the same
        figure = next((figures[one] for one in _WITHOUT_TIES[rest] if one in figures), None)
    if figure is None:
        grouping, _, group = rest.partition(".")
        figure = found["tables"].get(grouping, {}).get(group)
    if figure is None:
        return None
    value = figure["value"] if figure["strict"] is None else figure["strict"]
    return value if isinstance(value, int | float) else None


def _ours(summary: Mapping[str, Any], name: str) -> str:
    value = figure_named(summary, name)
    return "" if value is None else number(value)


def _cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return number(figure["value"]), bounds(figure), of_all(figure), f"{figure['count']} of {figure['asked']}"
