"""The figures of a run as a table for a person at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.experiments.common.reporting.wording import (
    STATUS_WORDS,
    accuracies,
    count,
    duration,
    token_rows,
    verdict_sentence,
)


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print what `summary.json` says, and where the results are, to standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['judge']} judging {summary['policy']}", show_header=False, min_width=60)
    table.add_column(style="bold")
    table.add_column(justify="right")
    for label, note, share in accuracies(summary):
        table.add_row(f"{label}\n[dim]{note}[/dim]", f"{100 * share:.1f} %")
    table.add_section()
    table.add_row("Preference pairs", str(summary["pairs"]))
    for reason, number in summary["dropped"].items():
        if number:
            table.add_row(f"  no pair: {reason.replace('_', ' ')}", str(number))
    table.add_section()
    for status, number in summary["judgments"].items():
        table.add_row(f"Judgments {STATUS_WORDS[status]}", str(number))
    forced_answer = sum(summary["forced_answer"].values())
    table.add_row("  of these, answer had to be forced", str(forced_answer))
    for label, figure in token_rows(summary):
        table.add_row(f"Tokens {label}", figure)
    table.add_section()
    table.add_row("Time, all starts together", duration(summary["seconds"]["total"]))
    console = Console(highlight=False, soft_wrap=not _is_terminal())
    console.print(table)
    console.print(verdict_sentence(summary))
    if summary.get("judge_auc") is not None:
        console.print(
            f"Over all candidates the judge puts a right answer above a wrong one in {100 * summary['judge_auc']:.0f} %"
            " of cases (50 % is chance)."
        )
    console.print(
        f"\n{count(summary['pairs'], 'preference pair')}: {out / 'preferences.jsonl'}\nReport: {out / 'report.html'}"
    )


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
