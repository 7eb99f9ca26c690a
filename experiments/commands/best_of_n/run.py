"""`flex-judge best-of-n`: sample N answers per prompt, judge them and select the best."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flex_judge.alignment.best_of_n.metrics import (
    LabelledSamples,
    compute_accuracies,
    compute_best_scores,
    prefer_expected_scores,
)
from flex_judge.alignment.best_of_n.selection import check_selection
from flex_judge.alignment.data.rows import read_final_text
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.pipeline.shards import ShardReport
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.common.data_runs.run import complete_run
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import read_rows, write_text

TABLES = ("best_of_n", "judgments")


def main(config: BestOfNRun, file: str | None) -> dict[str, Any]:
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
    selection = config.build_selection(file)
    check_selection(selection, config.num_answers)
    sampling = config.build_sampling(file)

    def make_plan(models: Models) -> BestOfNPlan:
        return BestOfNPlan(models, sampling, config.num_answers, selection)

    identity = {"selection": repr(selection)}
    concurrency = config.comparisons_per_prompt
    with complete_run(config, source, file, make_plan, concurrency, identity, "best-of-n") as (folder, completed):
        with folder.time_phase("join"):
            for table in TABLES:
                completed.join_table(table, folder.path / f"{table}.jsonl")
        return write_summary(folder, completed.report, config.get_answer_column(file))


def write_summary(folder: RunFolder, report: ShardReport, answer_column: str | None) -> dict[str, Any]:
    """Summarize a finished run in `summary.json`, and return the summary.

    Reads `best_of_n.jsonl` several times, because its rows may not fit into memory.

    Args:
        folder: Folder of the run.
        report: Counts over all shards.
        answer_column: Column with the right answer, for accuracies.
    """
    import numpy as np

    path = folder.path / "best_of_n.jsonl"
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    # 8 bytes of a hash per id: a million ids take 8 MB, and a collision is improbable.
    id_hashes = array("Q")
    for row in read_rows(path):
        counts["unscored"] += row["best"] is None
        counts["tied"] += row["tied"] > 1
        counts["judgments"] += row["judgments"]
        counts["policy_tokens"] += sum(row["tokens"])
        counts["cut"] += sum(row["cut"])
        counts["rows"] += 1
        statuses.update(row["statuses"])
        notes.update([row["note"]] if "note" in row else ())
        id_hashes.append(int.from_bytes(hashlib.sha256(row["id"].encode(errors="surrogatepass")).digest()[:8]))
    accuracies = None
    if counts["rows"] and answer_column:
        accuracies = compute_accuracies(_read_labelled_samples(path, answer_column)).to_json()
    best_scores = None
    if counts["rows"] > counts["unscored"]:
        estimates = compute_best_scores(map(prefer_expected_scores, read_rows(path)))
        best_scores = {n: asdict(estimate) for n, estimate in estimates.items()}
    summary = {
        **folder.settings,
        "prompts": report.rows,
        "done": report.done,
        "failed": dict(report.failed),
        **{name: counts[name] for name in ("unscored", "tied", "judgments", "policy_tokens", "cut")},
        "repeated_ids": len(id_hashes) - len(np.unique(np.array(id_hashes, dtype=np.uint64))),
        "statuses": dict(statuses),
        "accuracies": accuracies,
        "mean_score_of_best": best_scores,
        **({"notes": dict(notes)} if notes else {}),
        "seconds": {**folder.seconds, "total": folder.total_seconds},
    }
    write_text(folder.path / "summary.json", dump_json(summary, indent=2) + "\n")
    return summary


def _read_labelled_samples(path: Path, answer_column: str) -> Iterator[LabelledSamples]:
    for row in read_rows(path):
        texts = map(read_final_text, row["responses"])
        right = (is_correct_answer(text, row["kept"][answer_column]) for text in texts)
        yield LabelledSamples(tuple(row["ranking"]), tuple(right))
