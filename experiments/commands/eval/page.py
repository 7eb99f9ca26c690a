"""Report page of a benchmark run: metrics, published results, calibration, biases and the worst disagreements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Note, Table, TableRow, as_number, as_percent, name_option
from flex_judge.experiments.commands.eval.view import (
    build_metrics_table,
    build_published_table,
    describe_overall,
    find_metric,
    get_metric_title,
)
from flex_judge.experiments.common.reporting.blocks import (
    Card,
    Cards,
    Chart,
    CommandLine,
    ItemList,
    Page,
    PageBlock,
    PageSection,
    ShownItem,
    ShownMessage,
    ShownPart,
    shorten_line,
)
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines
from flex_judge.experiments.common.reporting.html import write_page as write_html
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.media import encode_data_uri
from flex_judge.experiments.common.reporting.runs import PAGE, RunRecord, build_judgments_section
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_journal
from flex_judge.experiments.common.reporting.wording import STATUS_WORDS, format_count
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object

_REQUIRED_KEYS = ("benchmark", "tasks", "published", "judge", "items")
_BIASES = (
    ("first_read", "prefers the response that is read first"),
    ("longer", "prefers the longer response"),
    ("ties", "says tie"),
)


def write_benchmark_page(record: RunRecord) -> Path:
    """Write `report.html` into the folder of a finished run, from its `summary.json`, and return the path of the page.

    Raises:
        UsageError: The summary is missing or invalid.
    """
    from flex_judge.experiments.benchmarks import find_benchmark

    run = record.folder
    summary = read_object(run / "summary.json", _REQUIRED_KEYS)
    benchmark = find_benchmark(summary["benchmark"])
    if benchmark is None:
        raise UsageError(
            f"{run / 'summary.json'}: benchmark: unknown name {summary['benchmark']!r}; "
            "rebuild the page with the version of flex-judge that ran the benchmark"
        )
    builder = ItemBuilder.for_folder(run)
    sections = [PageSection("Published results", [table])] if (table := build_published_table(summary)) else []
    sections += [
        PageSection(f"{name}: {format_count(task['items'], 'item')}", list(_build_task_blocks(task)))
        for name, task in summary["tasks"].items()
    ]
    for number, (name, task) in enumerate(summary["tasks"].items()):
        if task["worst"]:
            worst = [_build_disagreement(builder, item, run) for item in task["worst"]]
            shown = ItemList(f"worst-{number}", worst, "The responses are named A, B, ... in the order of the data.")
            sections.append(PageSection(f"Worst disagreements: {name}", [shown]))
    sample = sample_judgments(iterate_journal(run / "judgments.jsonl"))
    if sample.total:
        sections.append(build_judgments_section(builder, sample, run))
    sections.append(PageSection("Data and settings", _describe_provenance(record, summary)))
    page = Page(benchmark.spec.title, list(_build_intro(summary, benchmark.spec.about)), sections)
    return write_html(run / PAGE, page)


def _build_intro(summary: Mapping[str, Any], about: str) -> Iterator[PageBlock]:
    replay = f" Replies are from {summary['replay']}; no model was run." if summary["replay"] else ""
    items = f"{format_count(summary['items'], 'item')}, {summary['scored']} with a verdict."
    yield f"{about.removesuffix('.')}. Judge: {summary['judge']}; {items}{replay}"
    yield Cards(list(_build_cards(summary)))
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


def _build_task_blocks(task: Mapping[str, Any]) -> Iterator[PageBlock]:
    yield build_metrics_table(task)
    if task["calibration"]:
        yield _draw_calibration(task["calibration"])
    if task["biases"]:
        yield Table(("", "judge", "people"), _build_bias_rows(task["biases"]), "Biases")


def _draw_calibration(bins: list[Mapping[str, Any]]) -> Chart:
    """Draw how right the judge is at each of its scores; the table below has the number of items."""
    is_share = bins[0]["of"] == "right"
    columns = ("points between the two scores", "items", "right") if is_share else ("score", "items", "mean of labels")
    labels = [f"{bin_['at']}{' and more' if is_share and bin_['at'] == 5 else ''}" for bin_ in bins]
    rows: list[TableRow] = [
        (label, bin_["count"], as_percent(bin_["mean"]) if is_share else as_number(bin_["mean"]))
        for label, bin_ in zip(labels, bins, strict=True)
    ]
    scale = 100 if is_share else 1
    chart = draw_lines(
        "Calibration",
        labels,
        [Series("items at this score", [Point(scale * bin_["mean"]) for bin_ in bins])],
        x_label=columns[0],
        y_label="right, %" if is_share else columns[2],
        top=100 if is_share else None,
    )
    return replace(chart, table=Table(columns, rows))


def _build_bias_rows(biases: Mapping[str, Any]) -> Iterator[TableRow]:
    for key, title in _BIASES:
        if biases.get(key) is not None:
            yield title, as_percent(biases[key]), as_percent(biases[f"{key}_labels"])
    if biases.get("length") is not None:
        title = "rank correlation of score and length"
        yield title, as_number(biases["length"], digits=4), as_number(biases["length_labels"], digits=4)


def _build_cards(summary: Mapping[str, Any]) -> Iterator[Card]:
    for name, task in summary["tasks"].items():
        estimate = task["figures"][task["headline"]]
        value = find_metric(summary, f"{name}.{task['headline']}")
        title = get_metric_title(task["headline"])
        label = f"{name}: {title}" if len(summary["tasks"]) > 1 else title
        yield Card(label, str(as_number(value, digits=4)), f"{estimate['count']} of {estimate['asked']} with a verdict")
    unscored = sum(summary["unscored"].values())
    yield Card("Judgments without a score", f"{unscored:,}", tone="bad" if unscored else "good")


def _build_disagreement(builder: ItemBuilder, item: Mapping[str, Any], run: Path) -> ShownItem:
    """Build the item of one of the worst disagreements with people."""
    responses = item["responses"]
    shown_responses = [
        ShownMessage(f"Response {name_option(i)}", [_show_part(builder, part, run) for part in parts])
        for i, parts in enumerate(responses)
    ]
    thoughts = [("The judge's reasoning", builder.texts.clip_text(item["reasoning"]))] if item["reasoning"] else []
    return ShownItem(
        status="disagreement",
        title=shorten_line(" ".join(part["text"] for part in item["prompt"] if "text" in part) or str(item["id"])),
        outcome=describe_outcome(item),
        where=", ".join(map(str, (item["id"], *item["groups"].values()))),
        messages=[ShownMessage("question", [_show_part(builder, part, run) for part in item["prompt"]])],
        responses=shown_responses,
        thoughts=thoughts,
    )


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


def _show_part(builder: ItemBuilder, part: Mapping[str, str], run: Path) -> ShownPart:
    if "image" in part:
        return ShownPart(image=encode_picture(run, part["image"]), label=f"image {Path(part['image']).name}")
    if "medium" in part:
        return ShownPart(label=part["medium"])
    return ShownPart(text=builder.texts.clip_text(part["text"]))


def _describe_provenance(record: RunRecord, summary: Mapping[str, Any]) -> list[PageBlock]:
    data = summary["data"]
    settings = ", ".join(f"{name} {value}" for name, value in summary["settings"].items() if value not in (None, []))
    text = f"Data: {data['name']}, {format_count(data['rows'], 'row')}, {data['digest'][:16]}. Settings: {settings}."
    blocks: list[PageBlock] = [Note(text)]
    if record.command:
        blocks.append(CommandLine(record.command, "Command of this run:"))
    return blocks


def encode_picture(run: Path, name: str) -> str:
    """Encode a picture in the run folder as a data URI; empty if the file does not exist."""
    file = run / name
    # The name comes from summary.json, which must not make the page embed other files of this machine.
    if file.resolve().parent.parent != run.resolve() or not file.is_file():
        return ""
    return encode_data_uri(file.read_bytes(), "image/jpeg")
