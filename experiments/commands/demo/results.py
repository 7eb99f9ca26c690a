"""The result files of a demo: `best_of_n.jsonl`, `preferences.jsonl`, `summary.json` and `report.html`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

from flex_judge.alignment.best_of_n.metrics import LabelledSamples, compute_accuracies
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.alignment.preferences.stats import CardStats
from flex_judge.alignment.tasks.arithmetic import is_correct_answer
from flex_judge.experiments.commands.demo.shared import JudgmentStore, SampleStore
from flex_judge.experiments.commands.report.run import write_demo_report
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.jsonl import write_rows, write_text


def write_results(
    run: RunFolder,
    best_of_n: Sequence[RowResult],
    preferences: Sequence[RowResult],
    samples: SampleStore,
    judgments: JudgmentStore,
    replicas: int,
) -> dict[str, Any]:
    """Write every result file of a complete run.

    Returns:
        The summary.
    """
    rows = [_add_labels(row) for outcome in best_of_n for row in outcome.tables["best_of_n"]]
    pairs = [row for outcome in preferences for row in outcome.tables["preferences"]]
    write_rows(run.path / "best_of_n.jsonl", rows)
    write_rows(run.path / "preferences.jsonl", pairs)
    stats = reduce(add, (outcome.stats for outcome in preferences if isinstance(outcome.stats, CardStats)), CardStats())
    right = compute_accuracies(LabelledSamples(tuple(row["ranking"]), tuple(row["right"])) for row in rows)
    count = len(rows[0]["responses"])
    judged = list(judgments.journal.rows.values())
    votes = [vote for row in judged for vote in row["votes"]]
    settings = {name: value for name, value in run.settings.items() if name != "samples"}
    summary = {
        **settings,
        "samples_per_prompt": count,
        "replicas": replicas,
        "accuracy_pass_at_1": right.pass_at_1.value,
        "accuracy_random": right.random.value,
        "accuracy_best_of_n": right.best[count].value,
        "accuracy_pass_at_n": right.pass_at[count].value,
        "judge_auc": _compute_auc(rows),
        "tied_top": sum(row["tied"] > 1 for row in rows),
        "pairs": stats.pairs,
        "dropped": dict(stats.dropped),
        "judgments": dict(Counter(row["status"] for row in judged)),
        "forced_answer": dict(Counter(vote["forced_answer"] for vote in votes if vote["forced_answer"])),
        "policy_tokens": sum(row["tokens"] for row in samples.journal.rows.values()),
        "judge_tokens": sum(row["usage"]["generated_tokens"] for row in judged),
        "prompt_tokens": sum(row["usage"]["prompt_tokens"] for row in judged),
        "cached_tokens": sum(row["usage"]["cached_tokens"] for row in judged),
        "seconds": {**run.seconds, "total": run.total_seconds},
    }
    write_text(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_demo_report(run.path)
    return summary


def _add_labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add the ground truth to a row of best-of-n. It is used for measuring only."""
    return {**row, "right": [is_correct_answer(response, row["kept"]["answer"]) for response in row["responses"]]}


def _compute_auc(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Area under the ROC curve: how often a right answer ranks above a wrong one, over all pairs of the run.

    Answers rank by written score, then by expected score. Ties count as half, and 0.5 is chance. None if no right or no
    wrong answer has a score.
    """
    from scipy.stats import mannwhitneyu

    scored = [
        ((score, score if expected is None else expected), right)
        for row in rows
        for score, expected, right in zip(row["scores"], row["expected_scores"], row["right"], strict=True)
        if score is not None
    ]
    order = {value: i for i, value in enumerate(sorted({value for value, _ in scored}))}
    right = [order[value] for value, is_correct in scored if is_correct]
    wrong = [order[value] for value, is_correct in scored if not is_correct]
    if not right or not wrong:
        return None
    return float(mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)))
