"""Terminal output of `flex-judge demo`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import TableRow, as_percent
from flex_judge.experiments.common.reporting.terminal import print_run
from flex_judge.experiments.common.reporting.wording import (
    STATUS_WORDS,
    describe_verdict,
    format_count,
    list_accuracies,
    list_token_rows,
)


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print the summary of a run and the paths of its results."""
    pairs: list[TableRow] = [("Preference pairs", summary["pairs"])]
    pairs += [(f"  no pair: {reason.replace('_', ' ')}", n) for reason, n in summary["dropped"].items() if n]
    judgments: list[TableRow] = [(f"Judgments {STATUS_WORDS[status]}", n) for status, n in summary["judgments"].items()]
    judgments.append(("  of these, constrained fallback answers", sum(summary["forced_answer"].values())))
    print_run(
        f"{summary['judge']} judging {summary['policy']}",
        summary,
        [(f"{label}\n  {note}", as_percent(share)) for label, note, share in list_accuracies(summary)],
        pairs,
        [*judgments, *((f"Tokens {label}", tokens) for label, tokens in list_token_rows(summary))],
    )
    print(describe_verdict(summary))
    if summary.get("judge_auc") is not None:
        auc = f"{100 * summary['judge_auc']:.0f} %"
        print(
            f"Over all candidates, the judge ranks a right answer above a wrong one in {auc} of cases (chance: 50 %)."
        )
    print(f"\n{format_count(summary['pairs'], 'preference pair')}: {out / 'preferences.jsonl'}")
    print(f"Report: {out / 'report.html'}")
