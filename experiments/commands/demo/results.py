"""Result files of a demo: `best_of_n.jsonl`, `preferences.jsonl` and `summary.json`."""

from __future__ import annotations

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
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.io.jsonl import write_rows, write_text


def write_results(
    run: RunFolder,
    best_of_n: Sequence[RowResult],
    preferences: Sequence[RowResult],
    samples: SampleStore,
    judgments: JudgmentStore,
    replicas: int,
) -> dict[str, Any]:
    """Write every result file of a complete run, and return the summary."""
    rows = [_add_labels(row) for result in best_of_n for row in result.tables["best_of_n"]]
    pairs = [row for result in preferences for row in result.tables["preferences"]]
    write_rows(run.path / "best_of_n.jsonl", rows)
    write_rows(run.path / "preferences.jsonl", pairs)
    stats = reduce(add, (result.stats for result in preferences if isinstance(result.stats, CardStats)), CardStats())
    accuracies = compute_accuracies(LabelledSamples(tuple(row["ranking"]), tuple(row["right"])) for row in rows)
    count = len(rows[0]["responses"])
    judgment_rows = list(judgments.journal.rows.values())
    votes = [vote for row in judgment_rows for vote in row["votes"]]
    settings = {name: value for name, value in run.settings.items() if name != "samples"}
    summary = {
        **settings,
        "samples_per_prompt": count,
        "replicas": replicas,
        "accuracy_pass_at_1": accuracies.pass_at_1.value,
        "accuracy_random": accuracies.random.value,
        "accuracy_best_of_n": accuracies.best[count].value,
        "accuracy_pass_at_n": accuracies.pass_at[count].value,
        "judge_auc": _compute_auc(rows),
        "tied_top": sum(row["tied"] > 1 for row in rows),
        "pairs": stats.pairs,
        "dropped": dict(stats.dropped),
        "judgments": dict(Counter(row["status"] for row in judgment_rows)),
        "forced_answer": dict(Counter(vote["forced_answer"] for vote in votes if vote["forced_answer"])),
        "policy_tokens": sum(row["tokens"] for row in samples.journal.rows.values()),
        "judge_tokens": sum(row["usage"]["generated_tokens"] for row in judgment_rows),
        "prompt_tokens": sum(row["usage"]["prompt_tokens"] for row in judgment_rows),
        "cached_tokens": sum(row["usage"]["cached_tokens"] for row in judgment_rows),
        "seconds": {**run.seconds, "total": run.total_seconds},
    }
    write_text(run.path / "summary.json", dump_json(summary, indent=2) + "\n")
    return summary


def _add_labels(row: Mapping[str, Any]) -> dict[str, Any]:
    """Add the ground truth to a row of best-of-N; it is used only for metrics, never for selection."""
    return {**row, "right": [is_correct_answer(response, row["kept"]["answer"]) for response in row["responses"]]}


def _compute_auc(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Compute the area under the ROC curve: how often a right answer ranks above a wrong one.

    Pairs are taken over all prompts of the run. Answers rank by written score, then by expected score. Ties count as
    one half, so chance is 0.5.

    Returns:
        The area; None if no right or no wrong answer has a score.
    """
    from scipy.stats import mannwhitneyu

    scored = [
        ((score, score if expected is None else expected), is_right)
        for row in rows
        for score, expected, is_right in zip(row["scores"], row["expected_scores"], row["right"], strict=True)
        if score is not None
    ]
    # The test takes numbers, so each distinct pair of scores becomes its position in sorted order.
    position = {scores: i for i, scores in enumerate(sorted({scores for scores, _ in scored}))}
    right = [position[scores] for scores, is_right in scored if is_right]
    wrong = [position[scores] for scores, is_right in scored if not is_right]
    if not right or not wrong:
        return None
    return float(mannwhitneyu(right, wrong).statistic / (len(right) * len(wrong)))
