"""`flex-judge preferences`: sample answers to every prompt, judge them, and make a preference data set of them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import compute_content_digest
from flex_judge.alignment.data.texts import SeenPrompts
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.preferences.card import CardSettings, render_card
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.data_runs.run import CompletedRun, complete_run
from flex_judge.judges.io.jsonl import write_lines, write_text
from flex_judge.judges.rubrics import load_rubric

CHUNK_ROWS = 1000


def main(config: PreferenceRun, file: str | None) -> dict[str, Any]:
    """Run, or go on with a run.

    Args:
        file: the prompts, see `flex_judge.alignment.data.sources.open_source`; None for the embedded task.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
    """
    source = config.open_prompts(file)
    config.check_models()
    if config.is_two_temperatures:
        load_rubric(config.resolve_rubric(file)).check_response_count(2)
    identity = {
        "rule": repr(config.rule_spec),
        "hot_temperature": config.hot_temperature if config.is_two_temperatures else None,
        "filters": repr(config.filters),
        "format": config.format,
        "file_format": config.file_format,
        "with_images": config.with_images,
        "with_molecules": config.with_molecules,
    }

    def make_plan(models: Models) -> PreferencePlan:
        return config.make_plan(models, file)

    with complete_run(config, source, file, make_plan, config.num_answers, identity) as (folder, done):
        with folder.time_phase("join"):
            for table in ("judgments", "completions"):
                done.join_table(table, folder.path / f"{table}.jsonl")
            stats, right = write_data(config, folder.path / "data", done, source.name, file)
        summary = {
            **folder.settings,
            "prompts": done.report.rows,
            "done": done.report.done,
            "failed": dict(done.report.failed),
            "pairs": stats.pairs,
            "rows": stats.rows,
            "dropped": dict(stats.dropped.most_common()),
            "unscored": stats.dropped["unscored"],
            "judgments": dict(stats.judgments.most_common()),
            "completions": stats.completions,
            "cut": stats.cut,
            "right": right,
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def write_data(
    config: PreferenceRun, data: Path, done: CompletedRun, source: str, file: str | None
) -> tuple[CardStats, dict[str, int] | None]:
    """Write the data set with its card: a folder that `load_dataset` and the hub take as it is.

    Returns:
        The counts, and where the right answers are known, of how many pairs the chosen and the rejected one are right.
    """
    data.mkdir(exist_ok=True)
    counted = [CardStats.from_json(report.stats) for report in done.reports.values() if report.stats]
    stats = reduce(add, counted, CardStats())
    for reason, number in done.report.failed.items():
        stats.bad_rows[reason] += number
    answer = config.get_answer_column(file)
    kept = _PairFilter(config.filters.allow_repeated_prompts, stats, done.iterate_rows("completions"), answer)
    name = f"train.{config.file_format}"
    if config.file_format == "parquet":
        _write_parquet(data / name, kept.filter_rows(done.iterate_rows("preferences")), config)
    else:
        write_lines(data / name, kept.filter_rows(done.iterate_rows("preferences")))
    told = CardSettings(
        files=name,
        rule=config.rule_spec,
        filters=config.filters,
        format=config.format,
        images=config.with_images,
        molecules=config.with_molecules,
        source=source,
        policy={
            "samples": config.num_answers,
            "top_p": config.sample_top_p,
            "most tokens": config.build_sampling(file).max_tokens,
        },
        judge={
            "votes": config.judge.settings.votes,
            "order": config.judge_config.settings.order,
            "temperature": config.judge.settings.temperature,
        },
        digest=compute_content_digest([data / name]),
    )
    write_text(data / "README.md", render_card(stats, told))
    return stats, None if answer is None else dict(sorted(kept.right.items()))


@dataclass
class _PairFilter:
    """The rows that stay when prompts are looked at across shards, and how many of them are right."""

    allow_repeated: bool
    stats: CardStats
    completions: Iterator[dict[str, Any]]
    """Of all prompts, in the order of the rows."""
    answer: str | None
    right: Counter[str] = field(default_factory=Counter)
    """Of pairs, which answers are right: `chosen`, `rejected`, `both` or `neither`."""
    answered: dict[str, Any] | None = None
    """The completions of the prompt whose pairs pass by."""

    def filter_rows(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        repeats = SeenPrompts()
        last = None
        for row in rows:
            about = row["provenance"]
            pair = about["id"], about["chosen_index"], about["rejected_index"]
            if not self.allow_repeated and repeats.is_repeat(about["prompt_digest"], about["id"]):
                self.stats.drop_repeated_pairs(int(pair != last), 1)  # a pair can be two rows, one after the other
            else:
                if self.answer is not None and pair != last:
                    self._count_right_answers(*pair)
                yield row
            last = pair

    def _count_right_answers(self, id: str, chosen: int, rejected: int) -> None:
        if self.answered is None or self.answered["id"] != id:
            self.answered = next(row for row in self.completions if row["id"] == id)
        said, truth = self.answered["responses"], self.answered["kept"][self.answer]
        right = [name for name, k in (("chosen", chosen), ("rejected", rejected)) if is_correct_answer(said[k], truth)]
        self.right["both" if len(right) == 2 else right[0] if right else "neither"] += 1


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], config: PreferenceRun) -> None:
    """Write rows a thousand at a time, so that the whole is never in memory."""
    import pyarrow.parquet as pq

    from flex_judge.alignment.preferences.schema import make_parquet_table

    partial = path.with_name(path.name + ".partial")
    writer = None
    while (chunk := list(itertools.islice(rows, CHUNK_ROWS))) or writer is None:
        table = make_parquet_table(chunk, config.format, config.with_images, config.with_molecules)
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table)
        if not chunk:
            break
    writer.close()
    partial.replace(path)
