"""`flex-judge best-of-n`: sample N answers to every prompt, judge them, keep the best."""

from __future__ import annotations

import hashlib
import json
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
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.models import Models
from flex_judge.alignment.pipeline.shards import ShardReport
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.common.data_runs.run import complete_run
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.jsonl import read_rows, write_text

TABLES = ("best_of_n", "judgments")


def main(config: BestOfNRun, file: str | None) -> dict[str, Any]:
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
    selection = config.build_selection(file)
    check_selection(selection, config.num_answers)
    sampling = config.build_sampling(file)

    def make_plan(models: Models) -> BestOfNPlan:
        return BestOfNPlan(models, sampling, config.num_answers, selection)

    with complete_run(
        config, source, file, make_plan, config.comparisons_per_prompt, {"selection": repr(selection)}
    ) as (folder, done):
        with folder.time_phase("join"):
            for table in TABLES:
                done.join_table(table, folder.path / f"{table}.jsonl")
        return write_summary(folder, done.report, config.get_answer_column(file))


def write_summary(folder: RunFolder, report: ShardReport, answer: str | None) -> dict[str, Any]:
    """Say what a finished run came to, in `summary.json`. Reads the rows several times, and keeps none of them."""
    import numpy as np

    path = folder.path / "best_of_n.jsonl"
    counts: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    ids = array("Q")
    for row in read_rows(path):
        counts["unscored"] += row["best"] is None
        counts["tied"] += row["tied"] > 1
        counts["judgments"] += row["judgments"]
        counts["policy_tokens"] += sum(row["tokens"])
        counts["cut"] += sum(row["cut"])
        counts["rows"] += 1
        statuses.update(row["statuses"])
        ids.append(int.from_bytes(hashlib.sha256(row["id"].encode(errors="surrogatepass")).digest()[:8]))
    scored = counts["rows"] > counts["unscored"]
    summary = {
        **folder.settings,
        "prompts": report.rows,
        "done": report.done,
        "failed": dict(report.failed),
        **{name: counts[name] for name in ("unscored", "tied", "judgments", "policy_tokens", "cut")},
        "repeated_ids": len(ids) - len(np.unique(np.array(ids, dtype=np.uint64))),
        "statuses": dict(statuses),
        "accuracies": compute_accuracies(_read_labelled_samples(path, answer)).to_json()
        if counts["rows"] and answer
        else None,
        "mean_score_of_best": (
            {n: asdict(found) for n, found in compute_best_scores(map(prefer_expected_scores, read_rows(path))).items()}
            if scored
            else None
        ),
        "seconds": {**folder.seconds, "total": folder.total_seconds},
    }
    write_text(folder.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    return summary


def _read_labelled_samples(path: Path, answer: str) -> Iterator[LabelledSamples]:
    for row in read_rows(path):
        yield LabelledSamples(
            tuple(row["ranking"]), tuple(is_correct_answer(r, row["kept"][answer]) for r in row["responses"])
        )
