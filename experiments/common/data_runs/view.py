"""Terminal output of runs over prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import TableRow, as_number, as_percent
from flex_judge.experiments.common.reporting.runs import PAGE
from flex_judge.experiments.common.reporting.terminal import print_run
from flex_judge.experiments.common.reporting.wording import format_count

_RIGHT_TITLES = {
    "chosen": "Pairs whose chosen answer is right",
    "rejected": "Pairs whose rejected answer is right",
    "both": "Pairs whose answers are both right",
    "neither": "Pairs whose answers are both wrong",
}


def print_best_of_n(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a best-of-N run and the paths of its results."""
    metrics = list_best_of_n_metrics(summary)
    print_run(f"{summary['judge']} judging {summary['policy']}", summary, list_best_of_n_rows(summary), metrics)
    _print_notes(summary)
    print(f"\nBest answers: {out / 'best_of_n.jsonl'}\nAll judgments: {out / 'judgments.jsonl'}\nPage: {out / PAGE}")


def list_best_of_n_rows(summary: Mapping[str, Any]) -> list[TableRow]:
    """List the counts of a best-of-N run."""
    return [
        ("Prompts with a best answer", f"{summary['done'] - summary['unscored']} of {summary['prompts']}"),
        ("  ties broken at random", summary["tied"]),
        *_list_failures(summary),
        *([("Repeated ids", summary["repeated_ids"])] if summary["repeated_ids"] else []),
        ("Judgments", summary["judgments"]),
        *((f"  answers {status.replace('_', ' ')}", n) for status, n in summary["statuses"].items()),
        ("Truncated answers", summary["cut"]),
    ]


def list_best_of_n_metrics(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    """List the accuracies of a best-of-N run, or the scores if the right answers are not known."""
    if accuracies := summary["accuracies"]:
        yield "Right: pass@1 (first sample)", as_percent(accuracies["pass_at_1"])
        yield "Right: random sample", as_percent(accuracies["random"])
        for n, estimate in accuracies["best"].items():
            yield f"Right: best of {n}", as_percent(estimate)
        largest_n = max(accuracies["pass_at"], key=int)
        yield f"Right: pass@{largest_n}", as_percent(accuracies["pass_at"][largest_n])
        yield "Gain over a random sample", as_percent(accuracies["gain"])
    else:
        for n, estimate in (summary["mean_score_of_best"] or {}).items():
            yield f"Score of the best of {n}", as_number(estimate)


def print_preferences(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a preference data set and its path."""
    print_run(f"{summary['judge']} judging {summary['policy']}", summary, list_preference_rows(summary))
    _print_notes(summary)
    print(f"\n{format_count(summary['pairs'], 'preference pair')}, with their data card: {out / 'data'}")
    print(f"Page: {out / PAGE}")


def list_preference_rows(summary: Mapping[str, Any]) -> list[TableRow]:
    """List the counts of a preference data set."""
    return [
        ("Prompts", f"{summary['done']} of {summary['prompts']}"),
        *_list_failures(summary),
        ("Preference pairs", summary["pairs"]),
        *((f"  no pair: {reason.replace('_', ' ')}", n) for reason, n in summary["dropped"].items()),
        *((f"Judgments {status.replace('_', ' ')}", n) for status, n in summary["judgments"].items()),
        *((_RIGHT_TITLES[name], n) for name, n in (summary["right"] or {}).items()),
    ]


def _print_notes(summary: Mapping[str, Any]) -> None:
    """Print how prompts differ from the policy's own form, such as tools that its chat template leaves out."""
    for note, count in summary.get("notes", {}).items():
        print(f"\n{format_count(count, 'prompt')}: {note.removesuffix('.')}.")


def _list_failures(summary: Mapping[str, Any]) -> Iterator[TableRow]:
    for reason, n in summary["failed"].items():
        yield f"  failed: {reason.replace('_', ' ')} (see failed.jsonl)", n


def compute_exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """Return 1 if more prompts than `max_failures` have no result (failed, or no answer has a score), else 0."""
    return int(sum(summary["failed"].values()) + summary["unscored"] > max_failures)
