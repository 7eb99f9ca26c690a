"""`flex-judge preferences`: sample answers to prompts, judge them, and build a preference data set from pairs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.folders import compute_content_digest
from flex_judge.alignment.data.rows import read_final_text
from flex_judge.alignment.data.texts import SeenPrompts
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.preferences.card import CardSettings, render_card
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.common.data_runs.run import CompletedRun, complete_run
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_lines, write_text
from flex_judge.judges.rubrics import load_rubric

CHUNK_ROWS = 1000


def main(config: PreferenceRun, file: str | None) -> dict[str, Any]:
    """Start or resume a run.

    Args:
        config: Settings of the run.
        file: Prompts, see `flex_judge.alignment.data.sources.open_source`; None for the embedded task.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: Bad input; nothing was started.
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

    answers = config.num_answers
    with complete_run(config, source, file, make_plan, answers, identity, "preferences") as (folder, completed):
        with folder.time_phase("join"):
            for table in ("judgments", "completions"):
                completed.join_table(table, folder.path / f"{table}.jsonl")
            stats, right = write_data(config, folder.path / "data", completed, source.name, file)
        report = completed.report
        summary = {
            **folder.settings,
            "prompts": report.rows,
            "done": report.done,
            "failed": dict(report.failed),
            "pairs": stats.pairs,
            "rows": stats.rows,
            "dropped": dict(stats.dropped.most_common()),
            "unscored": stats.dropped["unscored"],
            "judgments": dict(stats.judgments.most_common()),
            "completions": stats.completions,
            "cut": stats.cut,
            "right": right,
            **({"notes": dict(stats.notes)} if stats.notes else {}),
            "seconds": {**folder.seconds, "total": folder.total_seconds},
        }
        write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
        return summary


def write_data(
    config: PreferenceRun, data: Path, completed: CompletedRun, source: str, file: str | None
) -> tuple[CardStats, dict[str, int] | None]:
    """Write the data set and its card into a folder that `load_dataset` and the hub accept.

    Returns:
        The statistics of the card. With known right answers, also the number of pairs whose chosen, rejected, both or
        neither answer is right; else None.
    """
    data.mkdir(exist_ok=True)
    shard_stats = [CardStats.from_json(report.stats) for report in completed.reports.values() if report.stats]
    stats = reduce(add, shard_stats, CardStats())
    for reason, number in completed.report.failed.items():
        stats.bad_rows[reason] += number
    # Completions and preferences are read as streams in the same order; neither fits into memory for large data.
    answer_column = config.get_answer_column(file)
    pair_filter = _PairFilter(
        config.filters.allow_repeated_prompts, stats, completed.iterate_rows("completions"), answer_column
    )
    rows = pair_filter.filter_rows(completed.iterate_rows("preferences"))
    tools = stats.tool_pairs > 0
    if tools:  # all rows of a data set have the same columns
        rows = ({"tools": None, **row} for row in rows)
    name = f"train.{config.file_format}"
    if config.file_format == "parquet":
        _write_parquet(data / name, rows, config, tools)
    else:
        write_lines(data / name, rows)
    card_settings = CardSettings(
        files=name,
        rule=config.rule_spec,
        filters=config.filters,
        format=config.format,
        images=config.with_images,
        molecules=config.with_molecules,
        tools=tools,
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
    write_text(data / "README.md", render_card(stats, card_settings))
    return stats, None if answer_column is None else dict(sorted(pair_filter.right.items()))


@dataclass
class _PairFilter:
    """Filter for repeated prompts across all shards, which also counts right answers.

    Shards are written independently, so a prompt that occurs in two of them is only found here.
    """

    allow_repeated: bool
    stats: CardStats
    completions: Iterator[dict[str, Any]]
    """Completions of all prompts, in the order of the rows."""
    answer_column: str | None
    right: Counter[str] = field(default_factory=Counter)
    """Number of pairs by right answers: `chosen`, `rejected`, `both` or `neither`."""
    current_completions: dict[str, Any] | None = None
    """Completions of the prompt of the current pair."""

    def filter_rows(self, rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield the rows that stay."""
        seen_prompts = SeenPrompts()
        previous_pair = None
        for row in rows:
            provenance = row["provenance"]
            pair = provenance["id"], provenance["chosen_index"], provenance["rejected_index"]
            is_new_pair = pair != previous_pair  # some formats write a pair as two adjacent rows
            previous_pair = pair
            if not self.allow_repeated and seen_prompts.is_repeat(provenance["prompt_digest"], provenance["id"]):
                self.stats.drop_repeated_pairs(int(is_new_pair), 1)
                continue
            if self.answer_column is not None and is_new_pair:
                self._count_right_answers(*pair)
            yield row

    def _count_right_answers(self, id: str, chosen: int, rejected: int) -> None:
        if self.current_completions is None or self.current_completions["id"] != id:
            self.current_completions = next(row for row in self.completions if row["id"] == id)
        responses, answer = self.current_completions["responses"], self.current_completions["kept"][self.answer_column]
        chosen_right = is_correct_answer(read_final_text(responses[chosen]), answer)
        rejected_right = is_correct_answer(read_final_text(responses[rejected]), answer)
        if chosen_right and rejected_right:
            self.right["both"] += 1
        elif chosen_right:
            self.right["chosen"] += 1
        elif rejected_right:
            self.right["rejected"] += 1
        else:
            self.right["neither"] += 1


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]], config: PreferenceRun, tools: bool) -> None:
    """Write rows in chunks of `CHUNK_ROWS`, which bounds the memory.

    Writes one empty chunk without rows, so that the file has its schema.
    """
    import pyarrow.parquet as pq

    from flex_judge.alignment.preferences.schema import make_parquet_table

    # Renamed when it is complete, so that a killed run leaves no broken data set.
    partial = path.with_name(path.name + ".partial")
    writer = None
    while (chunk := list(itertools.islice(rows, CHUNK_ROWS))) or writer is None:
        table = make_parquet_table(chunk, config.format, config.with_images, config.with_molecules, tools)
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table)
        if not chunk:
            break
    writer.close()
    partial.replace(path)
