"""What a run over prompts came to, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.best_of_n.metrics import interval
from flex_judge.experiments.common.reporting.wording import count, duration


def print_best_of_n(summary: Mapping[str, Any], out: Path) -> None:
    """Print what the `summary.json` of a best-of-N run says, and where the results are."""
    rows = [
        ("Prompts with a best answer", f"{summary['done'] - summary['unscored']} of {summary['prompts']}"),
        ("  answers drawn among equals", str(summary["tied"])),
        *_failed(summary),
        *([("Ids that occur again", str(summary["repeated_ids"]))] if summary["repeated_ids"] else []),
        ("Judgments", str(summary["judgments"])),
        *((f"  answers {status.replace('_', ' ')}", str(n)) for status, n in summary["statuses"].items()),
        ("Answers cut off", str(summary["cut"])),
    ]
    measured = []
    if summary["accuracies"]:
        figures = summary["accuracies"]
        measured = [("Right: first sample", figures["first"]), ("Right: random sample", figures["random"])]
        measured += [(f"Right: best of {n}", figure) for n, figure in figures["best"].items()]
        most = max(figures["any"], key=int)
        measured += [(f"Right: any of {most}", figures["any"][most]), ("Gain over a random sample", figures["gain"])]
    elif summary["mean_score_of_best"]:
        measured = [(f"Score of the best of {n}", figure) for n, figure in summary["mean_score_of_best"].items()]
    scale = 100 if summary["accuracies"] else 1
    print_table(
        f"{summary['judge']} judging {summary['policy']}",
        rows,
        [(name, interval(figure, scale)) for name, figure in measured],
        summary,
    )
    print(f"\nThe best answers: {out / 'best_of_n.jsonl'}\nAll judgments: {out / 'judgments.jsonl'}")


def print_preferences(summary: Mapping[str, Any], out: Path) -> None:
    """Print what the `summary.json` of a preference data set says, and where it is."""
    rows = [
        ("Prompts", f"{summary['done']} of {summary['prompts']}"),
        *_failed(summary),
        ("Preference pairs", str(summary["pairs"])),
        *((f"  no pair: {reason.replace('_', ' ')}", str(n)) for reason, n in summary["dropped"].items()),
        *((f"Judgments {status.replace('_', ' ')}", str(n)) for status, n in summary["judgments"].items()),
    ]
    if summary["right"]:
        rows += [(f"Pairs of which {name} is right", str(n)) for name, n in summary["right"].items()]
    print_table(f"{summary['judge']} judging {summary['policy']}", rows, [], summary)
    print(f"\n{count(summary['pairs'], 'preference pair')}, with their data card: {out / 'data'}")


def _failed(summary: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for reason, number in summary["failed"].items():
        yield f"  failed: {reason.replace('_', ' ')} (see lost.jsonl)", str(number)


def print_table(
    title: str, rows: list[tuple[str, str]], measured: list[tuple[str, str]], summary: Mapping[str, Any]
) -> None:
    """Print figures, then those that are estimates, then the time."""
    import sys

    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, min_width=60)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for section in (rows, measured, [("Time, all starts together", duration(summary["seconds"]["total"]))]):
        for name, figure in section:
            table.add_row(name, figure)
        table.add_section()
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(table)


def exit_status(summary: Mapping[str, Any], max_failures: int) -> int:
    """0, or 1 where more prompts than `max_failures` have no result: they were lost, or no answer has a score."""
    return int(sum(summary["failed"].values()) + summary["unscored"] > max_failures)
