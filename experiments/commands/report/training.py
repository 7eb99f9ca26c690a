"""Pages of `flex-judge sft`, `dpo` and `grpo`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.card import JUDGE_METRICS, build_evaluations_table
from flex_judge.alignment.policy_training.tuning import LOG_FILE
from flex_judge.alignment.reporting.model import Table
from flex_judge.alignment.training.card import build_metrics_table
from flex_judge.experiments.commands.sft.view import list_judge_training_rows
from flex_judge.experiments.commands.train_policy.view import list_policy_training_rows
from flex_judge.experiments.common.reporting import html
from flex_judge.experiments.common.reporting.blocks import Card, Cards, Page, PageBlock, PageSection
from flex_judge.experiments.common.reporting.charts import Point, Series, draw_lines
from flex_judge.experiments.common.reporting.judgments import ItemBuilder
from flex_judge.experiments.common.reporting.runs import (
    PAGE,
    RunRecord,
    build_failed_section,
    build_judgments_section,
    build_settings_section,
    build_state,
)
from flex_judge.experiments.common.reporting.sampling import sample_judgments
from flex_judge.experiments.common.reporting.tables import iterate_rows
from flex_judge.experiments.common.reporting.wording import format_percent
from flex_judge.judges.io.jsonl import read_object

MAX_POINTS = 60
"""Maximum number of points of a curve."""
_CHECKPOINT = re.compile(r"checkpoint-(\d+)$")
_CURVES = (
    ("loss", "Loss", "loss"),
    ("eval_loss", "Loss on held-out data", "loss"),
    ("reward", "Reward of the judge", "mean reward"),
    ("rewards/margins", "Margin of implicit rewards", "margin"),
    ("rewards/accuracies", "Chosen above rejected", "share"),
    ("kl", "Divergence from the policy before training", "KL"),
    ("entropy", "Entropy", "nats"),
    ("completions/mean_length", "Length of completions", "tokens"),
)
"""Metric in the trainer's log, title and unit of a curve."""


def write_page(record: RunRecord) -> Path:
    """Write the page of a training into the folder of its record and return its path."""
    model = record.folder.parent
    log, done, steps = _read_log(model)
    is_judge = record.folder.name == "recipe"
    builder = ItemBuilder.for_folder(record.folder)
    name = str(record.settings.get("policy"))
    title = f"Judge from {name}" if is_judge else f"{name} after {str(record.settings.get('command', '')).upper()}"
    intro: list[PageBlock] = [f"Trained on {record.settings.get('data')}. The model is in {model.name}."]
    sections: list[PageSection] = []
    if record.summary is None:
        intro += build_state(replace(record, expected=steps, noun="step"), done, 0)
    else:
        sections.append(PageSection("Results", list(_build_results(record.summary, is_judge))))
        intro.append(Cards(list(_build_cards(record.summary, is_judge))))
    if curves := list(_draw_curves(log)):
        sections.append(PageSection("Curves", curves))
    failed = build_failed_section(builder, iterate_rows(record.folder / "dropped.jsonl"), "Rows left out")
    if failed is not None:
        sections.append(failed)
    for when in ("before", "after"):
        folder = record.folder / when
        sample = sample_judgments(row for path in _find_judgments(folder) for row in iterate_rows(path))
        if sample.total:
            heading = f"Judgments {when} training"
            sections.append(build_judgments_section(builder, sample, folder, heading, f"judgments-{when}"))
    sections.append(build_settings_section(record))
    return html.write_page(record.folder / PAGE, Page(title, intro, sections))


def _read_log(model: Path) -> tuple[list[dict[str, Any]], int, int | None]:
    """Read the log of the trainer, or that of the last checkpoint while there is none.

    Returns:
        The log, the number of steps that are done, and that of all steps if it is known.
    """
    if (model / LOG_FILE).is_file():
        log = read_object(model / LOG_FILE, ("log",))["log"]
        return log, max((int(entry.get("step", 0)) for entry in log), default=0), None
    checkpoints = [
        (int(match[1]), path) for path in model.glob("checkpoint-*") if (match := _CHECKPOINT.search(path.name))
    ]
    for _, path in sorted(checkpoints, reverse=True):
        if (path / "trainer_state.json").is_file():
            state = read_object(path / "trainer_state.json")
            return state.get("log_history") or [], int(state.get("global_step") or 0), state.get("max_steps")
    return [], 0, None


def _find_judgments(folder: Path) -> Iterator[Path]:
    """Find the judgments of an evaluation: the joined table, or the shards that are done so far."""
    if (folder / "judgments.jsonl").is_file():
        yield folder / "judgments.jsonl"
    else:
        yield from sorted((folder / "shards").glob("judgments-*.jsonl"))


def _build_cards(summary: Mapping[str, Any], is_judge: bool) -> Iterator[Card]:
    yield Card("Trained on", f"{summary['rows']:,}", "judgments" if is_judge else "rows")
    if is_judge:
        for name, title in JUDGE_METRICS[:2]:
            if summary["metrics"] and summary["metrics"][name] is not None:
                yield Card(title, format_percent(summary["metrics"][name]), "on held-out judgments")
        return
    measured = summary["measured"]
    if measured:
        yield Card("Held-out prompts", f"{measured['prompts']:,}")
        if measured["score"]:
            before, after = measured["score"]["before"]["value"], measured["score"]["after"]["value"]
            yield Card("Judge score", f"{after:.2f}", f"{before:.2f} before training")
        if measured["right"]:
            before, after = measured["right"]["before"]["value"], measured["right"]["after"]["value"]
            yield Card("Right answers", format_percent(after), f"{format_percent(before)} before training")


def _build_results(summary: Mapping[str, Any], is_judge: bool) -> Iterator[PageBlock]:
    if is_judge:
        yield Table(("", "value"), list_judge_training_rows(summary))
        if summary["metrics"]:
            yield build_evaluations_table(summary)
        return
    yield Table(("", "value"), list(list_policy_training_rows(summary)))
    if summary["measured"]:
        yield build_metrics_table(summary["measured"])
        yield (
            "Means with 95 % intervals over prompts; the difference is taken prompt by prompt. A policy trained "
            "on a judge's scores can get higher scores from that judge without being better."
        )


def _draw_curves(log: Sequence[Mapping[str, Any]]) -> Iterator[PageBlock]:
    for name, title, unit in _CURVES:
        entries = [e for e in log if isinstance(e.get(name), int | float) and not isinstance(e.get(name), bool)]
        if len(entries) < 2:
            continue
        every = -(-len(entries) // MAX_POINTS)
        shown = entries[::-1][::every][::-1]  # from the end, so that the last value is on the page
        note = f"Every {every}th value of the log." if every > 1 else ""
        yield draw_lines(
            title,
            [str(entry["step"]) for entry in shown],
            [Series(name, [Point(float(entry[name])) for entry in shown])],
            x_label="step",
            y_label=unit,
            digits=4,
            note=note,
        )
