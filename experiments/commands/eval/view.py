"""Output of `flex-judge eval`: tables in the terminal, or one JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import RULE, Cell, Table, TableRow, as_number
from flex_judge.experiments.benchmarks.scoring import PARTIAL, PUBLISHED_SUFFIX
from flex_judge.experiments.common.reporting.terminal import escape_control_characters, open_console, print_table
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.io.json_values import dump_json

METRIC_TITLES = {
    "agreement": "agreement",
    "accuracy": "accuracy",
    "without_ties": "items labelled a tie left out",
    "decided": "ties left out",
    "majority": "majority of runs",
    "length_controlled": "length-controlled",
    "macro": "mean of groups",
    "macro_without_ties": "mean of groups, without ties",
    "precision": "precision (macro)",
    "recall": "recall (macro)",
    "f1": "F1 (macro)",
    "consistency": "same in every order",
    "kappa": "Cohen's kappa",
    "calibration_error": "calibration error of votes",
    "spearman": "Spearman",
    "kendall": "Kendall's tau",
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
    "macro_expected": "mean of groups, by expected scores",
    "strictly_best": "best alone, mean of groups without Ties",
    "overall": "overall",
}
"""Titles of the metrics in tables."""
MAX_PUBLISHED_COLUMNS = 4
"""Maximum number of metrics that are columns of a table in the terminal."""
_MAX_GROUPS = 30  # a terminal table with more groups than this is unreadable; the page has all of them
_WITHOUT_TIES = {
    "decided": ("accuracy", "agreement"),
    "without_ties": ("accuracy", "agreement"),
    "macro_without_ties": ("macro",),
}
"""Metrics that leave ties out, with the metrics that have the same value if there are no ties."""
OUR_PROMPTS = "Our prompts are in this project's own wording; published judges were asked in their makers' words."


def print_json(summary: Mapping[str, Any]) -> None:
    """Print the summary as one line of JSON, without the texts of the worst items."""
    tasks = {name: {k: v for k, v in task.items() if k != "worst"} for name, task in summary["tasks"].items()}
    print(dump_json({**summary, "tasks": tasks}, ascii_only=True))


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the metrics of a run and the items that were not judged."""
    console = open_console()
    for name, task in summary["tasks"].items():
        title = f"{summary['benchmark']}, {name}: {format_count(task['items'], 'item')}"
        print_table(replace(build_metrics_table(task, _MAX_GROUPS), title=title))
    if "overall" in summary:
        console.print(describe_overall(summary))
    for name in ("majority", f"majority{PUBLISHED_SUFFIX}"):
        if name in summary:
            title = f"overall, by {get_metric_title(name)}"
            console.print(f"{title} (mean of the tasks): {_format_score(summary[name])}")
    if published := build_published_table(summary):
        print_table(replace(_list_one_by_one(published), title="published results"))
    lines = format_summary_lines(summary)
    if summary["out"]:
        lines.append(f"report: {Path(summary['out']) / 'report.html'}")
    for line in lines:
        console.print(escape_control_characters(line), markup=False)


def describe_overall(summary: Mapping[str, Any]) -> str:
    """Describe the mean over the tasks; a task without verdicts is no zero in it."""
    tasks = summary["tasks"]
    if summary["overall"] is not None:
        return f"overall (mean of the tasks): {_format_score(summary['overall'])}"
    silent = [name for name, task in tasks.items() if not task["figures"][task["headline"]]["count"]]
    text = f"overall: n/a, without verdicts in {', '.join(silent)}"
    if summary[PARTIAL] is not None:
        count = len(tasks) - len(silent)
        text += f"; mean of the other {format_count(count, 'task')}: {_format_score(summary[PARTIAL])}"
    return text


def build_metrics_table(task: Mapping[str, Any], max_groups: int | None = None) -> Table:
    """Build the table of a task: metrics over all items, then the headline metric by group.

    Args:
        task: Task of the summary.
        max_groups: Leave out groupings with more groups.
    """
    rows: list[TableRow] = [
        (get_metric_title(metric), *_format_cells(estimate)) for metric, estimate in task["figures"].items()
    ]
    tables = {name: groups for name, groups in task["tables"].items() if not max_groups or len(groups) <= max_groups}
    for grouping, groups in tables.items():
        rows.append(RULE)
        rows += [(f"{grouping} {group}", *_format_cells(estimate)) for group, estimate in groups.items()]
    note = f"Rows of a group: {get_metric_title(task['headline'])}." if tables else ""
    return Table(("", "value", "95 % interval", "missing as wrong", "scored"), rows, note=note)


def format_summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Format counts of items without a verdict or judgment, and the notes, one per line."""
    lines = []
    if summary["unscored"]:
        reasons = ", ".join(f"{n} {status}" for status, n in summary["unscored"].items())
        lines.append(f"without a verdict: {reasons} (of {format_count(summary['judgments'], 'judgment')})")
    lines += [f"not judged: {reason}" for reason in summary["examples_not_judged"]]
    lines += [f"left out: {format_count(n, 'item')}: {reason}" for reason, n in summary["left_out"].items()]
    lines += [f"note: {note}" for note in summary["notes"]]
    return lines


def get_metric_title(name: str) -> str:
    """Return the title of a metric; for the metric of a group, the name of the group."""
    if name.endswith(PUBLISHED_SUFFIX):
        return f"{get_metric_title(name.removesuffix(PUBLISHED_SUFFIX))}, as the makers count"
    return METRIC_TITLES.get(name) or name.partition(".")[2] or name


def compute_exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """Return 1 if more items than `max_failures` were not judged, else 0."""
    return int(summary["not_judged"] > max_failures)


def build_published_table(summary: Mapping[str, Any]) -> Table | None:
    """Build the table of this run above published results; None without published results."""
    published: Sequence[Mapping[str, Any]] = summary["published"]
    names = list(dict.fromkeys(name for result in published for name in result["figures"]))
    if not names:
        return None
    has_several_tasks = len({name.partition(".")[0] for name in names if "." in name}) > 1
    titles = [
        f"{task}: {get_metric_title(metric)}" if has_several_tasks and metric else get_metric_title(metric or task)
        for task, _, metric in (name.partition(".") for name in names)
    ]
    judge = str(summary["judge"])
    measured = {name: value for name in names if (value := find_metric(summary, name)) is not None}
    counted = {name: value for name in names if (value := find_metric(summary, name, by_makers=True)) is not None}
    results: list[tuple[str, Mapping[str, float], str]] = [(judge, measured, "this run")]
    if counted != measured:
        results.append((judge, counted, "this run, as the makers count"))
    results += [(result["judge"], result["figures"], result["source"]) for result in published]
    rows: list[TableRow] = [
        (judge, *(_format_score(metrics[name]) if name in metrics else "" for name in names), source)
        for judge, metrics, source in results
    ]
    prompts = "The stored replies answer the prompts of their own judge." if summary["replay"] else OUR_PROMPTS
    note = f"Items without a verdict count as wrong if a metric is a share. {prompts}"
    return Table(("", *titles, "source"), rows, note=note, highlight=0)


def _list_one_by_one(published: Table) -> Table:
    """Give each published figure a row of its own if the table has too many columns for a terminal."""
    _, *metrics, _ = published.columns
    if len(metrics) <= MAX_PUBLISHED_COLUMNS:
        return published
    rows: list[TableRow] = []
    for place, metric in enumerate(metrics, 1):
        figures = [(row[0], row[-1], row[place]) for row in published.rows if row and row[place]]
        rows += [("" if i else metric, *figure) for i, figure in enumerate(figures)]
        rows.append(RULE)
    return Table(("metric", "judge", "source", "result"), rows[:-1], note=published.note, text_columns=3)


def find_metric(summary: Mapping[str, Any], name: str, by_makers: bool = False) -> float | None:
    """Find the value of a metric by `task.metric`, `task.grouping.group` or `overall`; None if the run lacks it.

    Args:
        summary: Summary of the run.
        name: Name of the metric.
        by_makers: Prefer the metric as the makers count, if they count differently.
    """
    if by_makers and (value := find_metric(summary, f"{name}{PUBLISHED_SUFFIX}")) is not None:
        return value
    task_name, _, metric = name.partition(".")
    if not metric:
        value = summary.get(name)
        return value if isinstance(value, int | float) else None
    task = summary["tasks"].get(task_name)
    if not task:
        return None
    metrics = task["figures"]
    estimate = metrics.get(metric)
    if estimate is None and metric in _WITHOUT_TIES:
        # A run without ties leaves these metrics out, because they equal the metrics with ties.
        estimate = next((metrics[equal] for equal in _WITHOUT_TIES[metric] if equal in metrics), None)
    if estimate is None:
        grouping, _, group = metric.partition(".")
        estimate = task["tables"].get(grouping, {}).get(group)
    if estimate is None:
        return None
    if not estimate["count"]:
        return None  # no verdict at all
    # Published results count missing verdicts as wrong, which is the strict value.
    strict = estimate["value"] if estimate["strict"] is None else estimate["strict"]
    return strict if isinstance(strict, int | float) else None


def _format_score(value: float | None) -> str:
    """Format a metric with four digits, which is enough for published results."""
    return str(as_number(value, digits=4))


def _format_cells(estimate: Mapping[str, Any]) -> tuple[Cell, ...]:
    """Format value, interval, value with missing verdicts counted as wrong, and number of scored items."""
    plain = as_number(estimate, digits=4)
    strict = as_number(estimate["strict"], digits=4)
    if estimate["strict"] not in (None, estimate["value"]) and estimate["strict_low"] is not None:
        strict = replace(strict, low=estimate["strict_low"], high=estimate["strict_high"])
    return _format_score(plain.value), plain.bounds, strict, f"{estimate['count']} of {estimate['asked']}"
