"""Rows and table of a suite: one row for each benchmark and task, next to published results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import RULE, Cell, Table, TableRow, as_number
from flex_judge.experiments.benchmarks.benchmark import PAPER_JUDGES, Benchmark
from flex_judge.experiments.commands.eval.view import OUR_PROMPTS, find_metric, get_metric_title
from flex_judge.experiments.common.reporting.terminal import escape_control_characters, open_console, print_table
from flex_judge.experiments.common.reporting.wording import format_count

WAITING, DONE, NO_DATA, FAILED, NOT_SELECTED = "waiting", "done", "no data", "failed", "not selected"
"""States of a benchmark in a suite."""
OVERALL = "overall"
MIN_WIDTH_WITH_JUDGES = 140
"""Columns of a terminal in which the published judges are named."""
NOT_AVAILABLE = "n/a"
"""Text for a figure of this run that does not exist. It is never 0."""
TABLE_NOTE = (
    "Items without a verdict count as wrong if a metric is a share. n/a: no figure, because the benchmark was not run "
    f"or has no verdict. –: not published. {OUR_PROMPTS}"
)


def build_rows(benchmark: Benchmark, summary: Mapping[str, Any] | None, reason: str = "") -> list[dict[str, Any]]:
    """Build the rows of a benchmark, one for each task, and one for the overall mean if that is published.

    Args:
        benchmark: The benchmark.
        summary: Summary of its run; None if it was not run.
        reason: Why it was not run.
    """
    spec = benchmark.spec
    tasks: Mapping[str, Any] = summary["tasks"] if summary else {}
    rows = []
    for name, scoring in spec.tasks.items():
        row = _make_row(benchmark, name, scoring.headline, reason)
        if name in tasks:
            row |= _read_estimate(tasks[name]["figures"][scoring.headline]) | {"items": tasks[name]["items"]}
            row["value_by_makers"] = find_metric(summary or {}, f"{name}.{scoring.headline}", by_makers=True)
        elif summary:
            row["reason"] = "the data have no item of this task"
        rows.append(row)
    if spec.overall:
        row = _make_row(benchmark, OVERALL, OVERALL, reason)
        if summary:
            row["value"] = row["value_by_makers"] = summary.get(OVERALL)
            row["items"] = sum(task["items"] for task in tasks.values())
            row["without_verdict"] = sum(other["without_verdict"] or 0 for other in rows)
            row["reason"] = "" if row["value"] is not None else "a task has no verdict"
        rows.append(row)
    return rows


def _make_row(benchmark: Benchmark, task: str, metric: str, reason: str) -> dict[str, Any]:
    name = OVERALL if task == OVERALL else f"{task}.{metric}"
    published = [
        {"judge": result.judge, "value": result.figures[name], "source": result.source}
        for result in benchmark.spec.published
        if name in result.figures
    ]
    empty = dict.fromkeys(("value", "low", "high", "value_by_makers", "items", "without_verdict"))
    identity = {"benchmark": benchmark.spec.name, "task": task, "metric": metric}
    return {**identity, **empty, "published": published, "reason": reason}


def _read_estimate(estimate: Mapping[str, Any]) -> dict[str, Any]:
    without_verdict = estimate["asked"] - estimate["count"]
    if not estimate["count"]:
        return {"without_verdict": without_verdict, "reason": "no item has a verdict"}
    prefix = "strict" if estimate["strict"] is not None else "value"
    low, high = ("strict_low", "strict_high") if prefix == "strict" else ("low", "high")
    return {
        "value": estimate[prefix],
        "low": estimate[low],
        "high": estimate[high],
        "without_verdict": without_verdict,
        "reason": "" if estimate[prefix] is not None else "undefined, for example because all scores are equal",
    }


def build_suite_table(summary: Mapping[str, Any]) -> Table:
    """Build the table of a suite for a page, with a column for each judge of the paper."""
    rows: Sequence[Mapping[str, Any]] = summary["rows"]
    columns = _list_paper_judges(summary)
    makers = ["as the makers count"] if any(_is_counted_otherwise(row) for row in rows) else []
    titles = ["benchmark", "task", "metric", "this run", *makers, "95 % interval", "items", "without verdict", *columns]
    table_rows: list[TableRow] = []
    for row in rows:
        cells: list[Cell] = [row["benchmark"], row["task"], get_metric_title(row["metric"]), _format(row["value"])]
        cells += [_format(row["value_by_makers"]) if _is_counted_otherwise(row) else ""] if makers else []
        cells += [_format_interval(row), _count(row["items"]), _count(row["without_verdict"])]
        figures = {result["judge"]: result["value"] for result in row["published"]}
        cells += [str(as_number(figures.get(judge), digits=4)) for judge in columns]
        table_rows.append(tuple(cells))
    return Table(titles, table_rows, note=TABLE_NOTE, text_columns=3)


def build_published_table(summary: Mapping[str, Any]) -> Table:
    """Build the table of published results that have no column in the table of the suite."""
    columns = _list_paper_judges(summary)
    rows: list[TableRow] = [
        (
            *(row["benchmark"], row["task"], get_metric_title(row["metric"])),
            *(result["judge"], result["source"], str(as_number(result["value"], digits=4))),
        )
        for row in summary["rows"]
        for result in row["published"]
        if result["judge"] not in columns
    ]
    return Table(("benchmark", "task", "metric", "judge", "source", "result"), rows, text_columns=5)


def _list_paper_judges(summary: Mapping[str, Any]) -> list[str]:
    judges = dict.fromkeys(result["judge"] for row in summary["rows"] for result in row["published"])
    return [judge for judge in judges if judge.startswith(PAPER_JUDGES)]


def build_narrow_table(summary: Mapping[str, Any], width: int) -> Table:
    """Build the table of a suite for a terminal with `width` columns; published judges are named where they fit."""
    rows: list[TableRow] = []
    is_wide = width >= MIN_WIDTH_WITH_JUDGES
    for row in summary["rows"]:
        items, missing = row["items"], row["without_verdict"]
        scored = NOT_AVAILABLE if items is None else f"{items - (missing or 0):,} of {items:,}"
        values = [result["value"] for result in row["published"]]
        ends = dict.fromkeys(str(as_number(value, digits=4)) for value in (min(values), max(values))) if values else ()
        published = _list_figures(row) if is_wide else " to ".join(ends) or "–"
        task = OVERALL if row["task"] == OVERALL else f"{row['task']}: {get_metric_title(row['metric'])}"
        name = f"{row['benchmark']}\n{task}"
        rows += [(name, _format(row["value"]), _format_interval(row), scored, published), RULE]
    judges = "" if is_wide else " Published: lowest to highest; the report names the judges."
    return Table(
        ("benchmark, task: metric", "this run", "95 % interval", "scored", "published"),
        rows[:-1],
        note=TABLE_NOTE + judges,
    )


def _list_figures(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{result['judge']} {result['value']:.4f}" for result in row["published"]) or "–"


def _format_interval(row: Mapping[str, Any]) -> str:
    return as_number(row["value"], low=row["low"], high=row["high"], digits=4).bounds


def _is_counted_otherwise(row: Mapping[str, Any]) -> bool:
    return row["value_by_makers"] not in (None, row["value"])


def _format(value: float | None) -> str:
    return NOT_AVAILABLE if value is None else str(as_number(value, digits=4))


def _count(number: int | None) -> str:
    return NOT_AVAILABLE if number is None else f"{number:,}"


def describe_state(name: str, entry: Mapping[str, Any]) -> str:
    """Describe why a benchmark has no result."""
    return f"{name}: {'failed' if entry['state'] == FAILED else 'not run'}: {entry['reason'] or entry['state']}"


def list_remarks(summary: Mapping[str, Any]) -> Iterator[str]:
    """List why benchmarks and tasks have no figure, items without a judgment, and notes, one per line."""
    for name, entry in summary["benchmarks"].items():
        if entry["state"] != DONE:
            if entry["state"] != NOT_SELECTED:
                yield describe_state(name, entry)
            continue
        if entry["reason"]:
            yield f"{name}: {entry['reason']}"
        for row in entry["rows"]:
            if row["reason"]:
                yield f"{name}, {row['task']}: n/a: {row['reason']}"
        if entry["not_judged"]:
            yield f"{name}: {format_count(entry['not_judged'], 'item')} could not be judged"
        yield from (f"{name}: note: {note}" for note in entry["notes"])


def print_suite(summary: Mapping[str, Any]) -> None:
    """Print the table of a suite and its remarks."""
    console = open_console()
    title = f"suite {summary['suite']}, judge {summary['judge']}"
    print_table(replace(build_narrow_table(summary, console.width), title=title))
    for line in list_remarks(summary):
        console.print(escape_control_characters(line), markup=False)
    if summary["out"]:
        console.print(escape_control_characters(f"report: {Path(summary['out']) / 'report.html'}"), markup=False)
