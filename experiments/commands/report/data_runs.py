"""Pages of `flex-judge best-of-n` and `flex-judge preferences`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.pipeline.shards import ShardFolder, sum_reports
from flex_judge.alignment.pipeline.worker import FAILED_TABLE
from flex_judge.alignment.reporting.model import Table, name_option
from flex_judge.experiments.common.data_runs.view import (
    list_best_of_n_metrics,
    list_best_of_n_rows,
    list_preference_rows,
)
from flex_judge.experiments.common.reporting.blocks import (
    Card,
    Cards,
    ItemList,
    Page,
    PageBlock,
    PageSection,
    ShownItem,
    ShownMessage,
    shorten_line,
)
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines, draw_scores
from flex_judge.experiments.common.reporting.html import write_page
from flex_judge.experiments.common.reporting.judgments import ItemBuilder, find_title
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_failed_section,
    build_judgments_section,
    build_settings_section,
    build_state,
    sample_rows,
)
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_rows
from flex_judge.experiments.common.reporting.wording import format_count, format_percent

Row = dict[str, Any]
MAX_PROMPTS = 12
"""Maximum number of prompts, or of pairs, on a page."""


def write_best_of_n_page(record: RunRecord) -> Path:
    """Write the page of a best-of-N run and return its path."""
    builder = ItemBuilder.for_folder(record.folder)
    prompts = sample_rows(iterate_table(record, "best_of_n"), MAX_PROMPTS)
    summary = record.summary
    intro: list[PageBlock] = [_describe_models(record)]
    sections: list[PageSection] = []
    if summary is None:
        intro += _build_state(record)
    else:
        cards = [
            Card(
                "Prompts with a best answer", f"{summary['done'] - summary['unscored']:,}", f"of {summary['prompts']:,}"
            ),
            Card("Judgments", f"{summary['judgments']:,}"),
            _make_failed_card(summary),
        ]
        if accuracies := summary["accuracies"]:
            n = max(accuracies["best"], key=int)
            cards += [
                Card("A random sample is right", format_percent(accuracies["random"]["value"])),
                Card(f"The best of {n} is right", format_percent(accuracies["best"][n]["value"])),
            ]
        intro.append(Cards(cards))
        rows = [*list_best_of_n_rows(summary), *list_best_of_n_metrics(summary)]
        sections.append(PageSection("Results", [*_draw_curves(summary), Table(("", "value"), rows)]))
    items = [_build_prompt_item(builder, row) for row in prompts.rows]
    shown = ItemList("prompts", items, prompts.describe("prompt"), open_items=1)
    sections.append(PageSection("Prompts and their answers", [shown]))
    return _write_page(record, builder, "Best of N", intro, sections)


def write_preferences_page(record: RunRecord) -> Path:
    """Write the page of a preference data set and return its path."""
    builder = ItemBuilder.for_folder(record.folder)
    summary = record.summary
    pairs = sample_rows(iterate_table(record, "preferences"), MAX_PROMPTS)
    intro: list[PageBlock] = [_describe_models(record)]
    sections: list[PageSection] = []
    if summary is None:
        intro += _build_state(record)
    else:
        dropped = sum(summary["dropped"].values())
        cards = [
            Card("Preference pairs", f"{summary['pairs']:,}", f"of {format_count(summary['prompts'], 'prompt')}"),
            Card("No pair", f"{dropped:,}"),
            _make_failed_card(summary),
        ]
        intro.append(Cards(cards))
        sections.append(PageSection("Results", [Table(("", "value"), list_preference_rows(summary))]))
    items = [_build_pair_item(builder, row) for row in pairs.rows]
    shown = ItemList("pairs", items, pairs.describe("pair"), open_items=1)
    sections.append(PageSection("Preference pairs", [shown]))
    return _write_page(record, builder, "Preference pairs", intro, sections)


def _write_page(
    record: RunRecord, builder: ItemBuilder, title: str, intro: list[PageBlock], sections: list[PageSection]
) -> Path:
    """Add the sections that all data runs have, and write the page."""
    sample = sample_judgments(iterate_table(record, "judgments"))
    failed = build_failed_section(builder, iterate_table(record, FAILED_TABLE), "Prompts without a result")
    if failed is not None:
        sections.insert(1 if record.summary else 0, failed)
    if sample.scores:
        chart = draw_scores(sample.scores, unit="answers", note="Of all judgments with a score.")
        place = 1 if record.summary else len(sections)
        sections.insert(place, PageSection("Scores", [chart]))
    sections.append(build_judgments_section(builder, sample, record.folder))
    sections.append(build_settings_section(record))
    return write_page(record.folder / PAGE, Page(title, intro, sections))


def iterate_table(record: RunRecord, table: str) -> Iterator[Row]:
    """Iterate over a table of a data run: the joined file, or the shards that are done so far."""
    if record.summary is not None and (record.folder / f"{table}.jsonl").is_file():
        yield from iterate_rows(record.folder / f"{table}.jsonl")
        return
    shards = ShardFolder(record.folder / "shards")
    yield from shards.read_table_rows(table, shards.read_reports())


def _build_state(record: RunRecord) -> list[PageBlock]:
    report = sum_reports(list(ShardFolder(record.folder / "shards").read_reports().values()))
    return build_state(record, report.done, sum(report.failed.values()))


def _describe_models(record: RunRecord) -> str:
    settings = record.settings
    return (
        f"The policy {settings.get('policy')} answered prompts of {settings.get('source', 'the embedded task')}, "
        f"{format_count(int(settings.get('samples') or 0), 'sample')} each. The judge {settings.get('judge')} judged "
        "the answers."
    )


def _make_failed_card(summary: Mapping[str, Any]) -> Card:
    failed = sum(summary["failed"].values()) + (summary["unscored"] if "accuracies" in summary else 0)
    return Card("Prompts without a result", f"{failed:,}", tone="bad" if failed else "good")


def _draw_curves(summary: Mapping[str, Any]) -> list[PageBlock]:
    """Draw accuracies, or scores, against the number of samples."""
    accuracies = summary["accuracies"]
    if accuracies:
        sizes, pass_at = sorted(accuracies["best"], key=int), accuracies["pass_at"]
        random_sample = Point.from_estimate(accuracies["random"], 100)
        series = [
            Series("best of N by the judge", [Point.from_estimate(accuracies["best"][n], 100) for n in sizes]),
            Series("pass@N, the ceiling", [Point.from_estimate(pass_at.get(n), 100) for n in sizes], colour=4),
            Series("a random sample", [random_sample] * len(sizes), dashed=True, colour=1),
        ]
        note = "Means with 95 % intervals over prompts."
        chart = draw_lines(
            "Right answers", sizes, series, x_label="N samples", y_label="right answers, %", top=100, note=note
        )
        return [chart]
    if scores := summary["mean_score_of_best"]:
        sizes = sorted(scores, key=int)
        points = [Point.from_estimate(scores[n]) for n in sizes]
        return [
            draw_lines(
                "Score of the best answer",
                sizes,
                [Series("best of N", points)],
                x_label="N samples",
                y_label="mean score",
                digits=2,
            )
        ]
    return []


def _build_prompt_item(builder: ItemBuilder, row: Row) -> ShownItem:
    judgment = {"scores": row["scores"], "expected_scores": row["expected_scores"], "preferred": row["best"]}
    comparison = {"prompt": row["prompt"], "responses": row["responses"]}
    item = builder.build_item({"id": row["id"], "status": "ok", "votes": [], **judgment}, comparison)
    best = row["best"]
    outcome = "no best: no answer has a score" if best is None else f"best is {name_option(best)}"
    if row["tied"] > 1:
        outcome += f", {row['tied']} tied"
    responses = [_mark_response(response, i, row) for i, response in enumerate(item.responses)]
    status = "no best" if best is None else "with a best answer"
    return replace(item, status=status, outcome=outcome, responses=responses, is_failed=best is None)


def _mark_response(response: ShownMessage, index: int, row: Row) -> ShownMessage:
    facts = [response.facts] if index < len(row["scores"]) and row["scores"][index] is not None else ["no score"]
    rates = row.get("win_rates") or ()
    if index < len(rates) and rates[index] is not None:
        facts.append(f"won {format_percent(rates[index])}")
    if index < len(row["cut"]) and row["cut"][index]:
        facts.append("cut at the token limit")
    marks = ("best",) if index == row["best"] else ()
    return replace(response, facts=", ".join(filter(None, facts)), marks=marks)


def _build_pair_item(builder: ItemBuilder, row: Row) -> ShownItem:
    """Build the item of a row of a preference data set, whatever its format."""
    provenance = row["provenance"]
    margin = row.get("margin", row.get("score_margin"))
    outcome = "" if margin is None else f"margin {margin:.2f}"
    responses = [
        builder.build_message(message, title, _format_score(row.get(f"score_{title}")))
        for title in ("chosen", "rejected", "completion")
        for message in _list_last_messages(row.get(title))
    ]
    if "label" in row:
        outcome = "desired" if row["label"] else "not desired"
    prompt = row.get("prompt") or (row["chosen"][:-1] if isinstance(row.get("chosen"), list) else ())
    messages = builder.build_prompt(prompt)
    title = find_title(messages) or f"Pair of {provenance['id']}"
    where = f"prompt {shorten_line(str(provenance['id']), 80)}"
    return ShownItem("pairs", title, outcome, where, messages=messages, responses=responses)


def _list_last_messages(value: Any) -> Sequence[Mapping[str, Any]]:
    """List the last message of a conversation, or a text as a message."""
    if isinstance(value, str):
        return [{"content": value}]
    return [message for message in value[-1:] if isinstance(message, Mapping)] if isinstance(value, list) else []


def _format_score(score: Any) -> str:
    return "" if score is None else f"score {score:.2f}"
