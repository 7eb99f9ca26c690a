"""From judgments to results: the best of each question's samples, preference pairs, the summary and the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.best_of_n.choice import best_of_n, rank
from flex_judge.alignment.preferences.rules import highest_against_lowest
from flex_judge.experiments.commands.report.run import write_report
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges.io.jsonl import read_rows, write_rows, write_text
from flex_judge.judges.judgments import Judgment, Status

if TYPE_CHECKING:
    from flex_judge.alignment.tasks.arithmetic import Question


@dataclass(frozen=True)
class Judged:
    """A question with its samples and what the judge thinks of them."""

    question: Question
    responses: list[str]
    judgments: list[Judgment]

    @property
    def right(self) -> list[bool]:
        """Ground truth: measures, never chooses."""
        return [self.question.is_right(response) for response in self.responses]


def write_results(
    run: RunFolder, questions: Sequence[Question], samples: int, seed: int, **described: Any
) -> dict[str, Any]:
    """Write every result file of a complete run.

    Returns:
        The summary.
    """
    with run.phase("select"):
        completions = {row["id"]: row for row in read_rows(run.path / "completions.jsonl")}
        judgments = {row["id"]: Judgment.from_json(row) for row in read_rows(run.path / "judgments.jsonl")}
        judged = []
        for question in questions:
            ids = [question.sample_id(k) for k in range(samples)]
            judged.append(Judged(question, [completions[i]["text"] for i in ids], [judgments[i] for i in ids]))
        choices = [best_of_n(j.judgments, seed=f"{seed}-{j.question.id}") for j in judged]
        write_rows(
            run.path / "best_of_n.jsonl",
            [_best_of_n_row(j, c.best, c.tied) for j, c in zip(judged, choices, strict=True)],
        )
        pairs, dropped = _preferences(judged)
        write_rows(run.path / "preferences.jsonl", pairs)
    summary = {
        **run.settings,
        "samples_per_prompt": samples,
        **described,
        **_accuracies(judged, [c.best for c in choices]),
        "judge_auc": _auc(judged),
        "tied_top": sum(c.tied > 1 for c in choices),
        "pairs": len(pairs),
        "dropped": dropped,
        "judgments": dict(Counter(str(j.status) for j in judgments.values())),
        "forced_answer": dict(Counter(v.forced_answer for j in judgments.values() for v in j.votes if v.forced_answer)),
        "policy_tokens": sum(row["tokens"] for row in completions.values()),
        "judge_tokens": sum(j.usage.generated_tokens for j in judgments.values()),
        "prompt_tokens": sum(j.usage.prompt_tokens for j in judgments.values()),
        "cached_tokens": sum(j.usage.cached_tokens for j in judgments.values()),
        "seconds": {**run.seconds, "total": run.total_seconds},
    }
    del summary["samples"]
    write_text(run.path / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_report(run.path)
    return summary


def _best_of_n_row(judged: Judged, best: int | None, tied: int) -> dict[str, Any]:
    return {
        "id": judged.question.id,
        "prompt": [{"role": m.role, "content": m.content} for m in judged.question.prompt],
        "responses": judged.responses,
        "scores": [j.scores and j.scores[0] for j in judged.judgments],
        "expected_scores": [j.expected_scores and j.expected_scores[0] for j in judged.judgments],
        "right": judged.right,
        "best": best,
        "text": None if best is None else judged.responses[best],
        "tied": tied,
    }


def _preferences(judged: Sequence[Judged]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    pairs, dropped = [], Counter[str]()
    for j in judged:
        pair = highest_against_lowest(j.question.prompt, j.responses, j.judgments, id=j.question.id)
        if isinstance(pair, str):
            dropped[pair] += 1
        else:
            pairs.append(pair)
    return pairs, dict(dropped)


def _accuracies(judged: Sequence[Judged], best: Sequence[int | None]) -> dict[str, float]:
    """Shares of questions; a question whose candidates are all unscored stays in the denominator, as not right."""
    n = len(judged)
    right = [j.right for j in judged]
    return {
        "accuracy_first": sum(r[0] for r in right) / n,
        "accuracy_random": sum(sum(r) / len(r) for r in right) / n,
        "accuracy_best_of_n": sum(b is not None and r[b] for r, b in zip(right, best, strict=True)) / n,
        "accuracy_any": sum(any(r) for r in right) / n,
    }


def _auc(judged: Sequence[Judged]) -> float | None:
    """How often the judge ranks a right answer above a wrong one, over all such pairs; ties count half. 0.5 is chance.

    None where there is no such pair.
    """
    from scipy.stats import rankdata

    scored = [(rank(j), r) for q in judged for j, r in zip(q.judgments, q.right, strict=True) if j.status == Status.OK]
    order = {value: i for i, value in enumerate(sorted({value for value, _ in scored}))}
    right = sum(r for _, r in scored)
    wrong = len(scored) - right
    if not right or not wrong:
        return None
    ranks = rankdata([order[value] for value, _ in scored])
    rank_sum = sum(position for position, (_, r) in zip(ranks, scored, strict=True) if r)
    return float((rank_sum - right * (right + 1) / 2) / (right * wrong))
