"""The report page of a benchmark run: metrics, published results, calibration, biases and the worst disagreements."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Block, Note, Report, Row, Section, Table, number, percent
from flex_judge.experiments.commands.eval.view import metrics_table, published_table
from flex_judge.experiments.common.reporting.html import write_page as write_html
from flex_judge.experiments.common.reporting.wording import STATUS_WORDS, count
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object

_NEEDED = ("benchmark", "tasks", "published", "judge", "items")
_BIASES = (
    ("first_read", "prefers the response that was read first"),
    ("longer", "prefers the longer response"),
    ("ties", "calls it a tie"),
)
MOST_TEXT = 2000
"""Characters of a text on the page."""


def write_page(run: Path) -> Path:
    """Write `report.html` into the folder of a run, from its `summary.json`, and return its path.

    Raises:
        UsageError: the summary is missing or broken.
    """
    from flex_judge.experiments.benchmarks import BENCHMARKS

    summary = read_object(run / "summary.json", _NEEDED)
    benchmark = BENCHMARKS.get(summary["benchmark"])
    if benchmark is None:
        raise UsageError(f"{run / 'summary.json'}: there is no benchmark {summary['benchmark']!r}")
    sections = [Section("Published results", [table])] if (table := published_table(summary)) else []
    sections += [
        Section(f"{name}: {count(task['items'], 'item')}", _task(task)) for name, task in summary["tasks"].items()
    ]
    sections.append(Section("Data and settings", [Note(_provenance(summary))]))
    report = Report(benchmark.spec.title, _intro(summary, benchmark.spec.about), sections)
    return write_html(
        run / "report.html", report, "eval.html", s=summary, cut=cut, picture=lambda name: picture(run, name)
    )


def _intro(summary: Mapping[str, Any], about: str) -> Iterator[Block]:
    replay = f" Stored replies of {summary['replay']}; no model was run." if summary["replay"] else ""
    items = f"{count(summary['items'], 'item')}, {summary['scored']} with a verdict."
    yield f"{about} Judge: {summary['judge']}; {items}{replay}"
    if summary["unscored"]:
        reasons = "; ".join(f"{n} {STATUS_WORDS.get(status, status)}" for status, n in summary["unscored"].items())
        yield f"Judgments without a score: {reasons}."
    for reason, n in summary["left_out"].items():
        yield f"{count(n, 'item')} left out: {reason}."
    for note in summary["notes"]:
        yield Note(f"Note: {note}.")


def _task(task: Mapping[str, Any]) -> Iterator[Block]:
    yield metrics_table(task)
    if task["calibration"]:
        yield _calibration(task["calibration"])
    if task["biases"]:
        yield Table(("", "judge", "people"), _bias_rows(task["biases"]), "Biases")


def _calibration(bins: list[Mapping[str, Any]]) -> Table:
    is_share = bins[0]["of"] == "right"
    columns = ("points between the two scores", "items", "right") if is_share else ("score", "items", "mean of labels")
    rows: list[Row] = [
        (
            f"{one['at']}{' and more' if is_share and one['at'] == 5 else ''}",
            one["count"],
            percent(one["mean"]) if is_share else number(one["mean"]),
        )
        for one in bins
    ]
    return Table(columns, rows, "Calibration", bars=is_share)


def _bias_rows(biases: Mapping[str, Any]) -> Iterator[Row]:
    for key, title in _BIASES:
        if biases.get(key) is not None:
            yield title, percent(biases[key]), percent(biases[f"{key}_labels"])
    if biases.get("length") is not None:
        title = "rank correlation of score and length"
        yield title, number(biases["length"], digits=4), number(biases["length_labels"], digits=4)


def _provenance(summary: Mapping[str, Any]) -> str:
    data = summary["data"]
    settings = ", ".join(f"{name} {value}" for name, value in summary["settings"].items() if value not in (None, []))
    return f"Data: {data['name']}, {count(data['rows'], 'row')}, {data['digest'][:16]}. Settings: {settings}."


def picture(run: Path, name: str) -> str:
    """Read a picture of the run's folder as a data URI; empty if it is gone."""
    file = run / name
    if file.resolve().parent.parent != run.resolve() or not file.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()


def cut(text: str) -> str:
    """Shorten a text for the page."""
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"
