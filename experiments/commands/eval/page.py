"""Report page of a benchmark run: metrics, published results, calibration, biases and the worst disagreements."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Block, Note, Report, Section, Table, TableRow, as_number, as_percent
from flex_judge.experiments.commands.eval.view import build_metrics_table, build_published_table, describe_overall
from flex_judge.experiments.common.reporting.html import write_page as write_html
from flex_judge.experiments.common.reporting.wording import STATUS_WORDS, format_count, name_option
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object

_REQUIRED_KEYS = ("benchmark", "tasks", "published", "judge", "items")
_BIASES = (
    ("first_read", "prefers the response that is read first"),
    ("longer", "prefers the longer response"),
    ("ties", "says tie"),
)
MAX_TEXT_CHARS = 2000
"""Maximum length of a text on the page, in characters."""


def write_benchmark_page(run: Path) -> Path:
    """Write `report.html` into the folder of a run, from its `summary.json`, and return the path of the page.

    Raises:
        UsageError: The summary is missing or invalid.
    """
    from flex_judge.experiments.benchmarks import find_benchmark

    summary = read_object(run / "summary.json", _REQUIRED_KEYS)
    benchmark = find_benchmark(summary["benchmark"])
    if benchmark is None:
        raise UsageError(
            f"{run / 'summary.json'}: benchmark: unknown name {summary['benchmark']!r}; "
            "rebuild the page with the version of flex-judge that ran the benchmark"
        )
    sections = [Section("Published results", [table])] if (table := build_published_table(summary)) else []
    sections += [
        Section(f"{name}: {format_count(task['items'], 'item')}", _build_task_blocks(task))
        for name, task in summary["tasks"].items()
    ]
    sections.append(Section("Data and settings", [Note(_describe_provenance(summary))]))
    report = Report(benchmark.spec.title, _build_intro(summary, benchmark.spec.about), sections)
    return write_html(
        run / "report.html",
        report,
        "eval.html",
        s=summary,
        cut=shorten_text,
        outcome=describe_outcome,
        picture=lambda name: encode_picture(run, name),
    )


def _build_intro(summary: Mapping[str, Any], about: str) -> Iterator[Block]:
    replay = f" Replies are from {summary['replay']}; no model was run." if summary["replay"] else ""
    items = f"{format_count(summary['items'], 'item')}, {summary['scored']} with a verdict."
    yield f"{about} Judge: {summary['judge']}; {items}{replay}"
    if "overall" in summary:
        text = describe_overall(summary)
        yield f"{text[0].upper()}{text[1:]}."
    if summary["unscored"]:
        reasons = "; ".join(f"{n} {STATUS_WORDS.get(status, status)}" for status, n in summary["unscored"].items())
        yield f"Judgments without a score: {reasons}."
    for reason, n in summary["left_out"].items():
        yield f"{format_count(n, 'item')} left out: {reason}."
    for note in summary["notes"]:
        yield Note(f"Note: {note}.")


def _build_task_blocks(task: Mapping[str, Any]) -> Iterator[Block]:
    yield build_metrics_table(task)
    if task["calibration"]:
        yield _build_calibration_table(task["calibration"])
    if task["biases"]:
        yield Table(("", "judge", "people"), _build_bias_rows(task["biases"]), "Biases")


def _build_calibration_table(bins: list[Mapping[str, Any]]) -> Table:
    is_share = bins[0]["of"] == "right"
    columns = ("points between the two scores", "items", "right") if is_share else ("score", "items", "mean of labels")
    rows: list[TableRow] = [
        (
            f"{bin_['at']}{' and more' if is_share and bin_['at'] == 5 else ''}",
            bin_["count"],
            as_percent(bin_["mean"]) if is_share else as_number(bin_["mean"]),
        )
        for bin_ in bins
    ]
    return Table(columns, rows, "Calibration", bars=is_share)


def _build_bias_rows(biases: Mapping[str, Any]) -> Iterator[TableRow]:
    for key, title in _BIASES:
        if biases.get(key) is not None:
            yield title, as_percent(biases[key]), as_percent(biases[f"{key}_labels"])
    if biases.get("length") is not None:
        title = "rank correlation of score and length"
        yield title, as_number(biases["length"], digits=4), as_number(biases["length_labels"], digits=4)


def _describe_provenance(summary: Mapping[str, Any]) -> str:
    data = summary["data"]
    settings = ", ".join(f"{name} {value}" for name, value in summary["settings"].items() if value not in (None, []))
    return f"Data: {data['name']}, {format_count(data['rows'], 'row')}, {data['digest'][:16]}. Settings: {settings}."


def describe_outcome(item: Mapping[str, Any]) -> str:
    """Describe the label of people and the verdict of the judge on a disagreement, with options by their letters."""
    scores = item["scores"] or []
    pairs = [f"{name_option(i)} {score:g}" if len(scores) > 1 else f"{score:g}" for i, score in enumerate(scores)]
    verdict = item["choice"] or ", ".join(pairs)
    return f"people say {_name_label(item['label'], len(scores))}, the judge {verdict}"


def _name_label(label: Any, num_responses: int) -> str:
    if isinstance(label, list):  # response indexes, best first
        return ", ".join(map(name_option, label))
    if isinstance(label, int) and num_responses > 1:
        return name_option(label)
    return f"{label:g}" if isinstance(label, int | float) else str(label)


def encode_picture(run: Path, name: str) -> str:
    """Encode a picture in the run folder as a data URI; empty if the file does not exist."""
    file = run / name
    # The name comes from summary.json, which must not make the page embed other files of this machine.
    if file.resolve().parent.parent != run.resolve() or not file.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(file.read_bytes()).decode()


def shorten_text(text: str) -> str:
    """Shorten a text to `MAX_TEXT_CHARS` characters."""
    return text if len(text) <= MAX_TEXT_CHARS else text[:MAX_TEXT_CHARS] + " …"
