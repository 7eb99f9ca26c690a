"""The card of the embedded judge: what it is, what it was made of, and how it did in its exam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.card import share
from flex_judge.alignment.tasks.synthetic_teacher import NAME as TEACHER
from flex_judge.alignment.training.card import save_card
from flex_judge.judges.models.embedded import BASE, JUDGE

FIGURES = (
    ("Single answers, balanced over right and wrong", ("singles", "balanced_accuracy")),
    ("- of sums that were not taught the other way round either", ("unrelated", "balanced_accuracy")),
    ("- exactly the right score", ("singles", "agreement")),
    ("Pairs, balanced over first, second and tie", ("pairs", "balanced_accuracy")),
    ("Same verdict on a pair in the other order", ("swap_consistency",)),
    ("Verdicts given without being forced", ("parsed",)),
)
"""Title -> where it is in the results."""


def figure(results: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    """A figure of an exam's results."""
    found: Any = results
    for name in path:
        found = found[name]
    return None if found is None else float(found)


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `README.md` beside the adapter, with the header that the hub reads.

    Args:
        summary: that of `judge.main`.
    """
    save_card(folder, BASE, ["trl", "sft", "flex-judge", "reward-model"], _sections(summary))


def table(summary: Mapping[str, Any]) -> str:
    """The figures of both exams, as a table in Markdown."""
    lines = ["| | base model | this judge |", "|---|---|---|"]
    for title, path in FIGURES:
        lines.append(f"| {title} | {share(figure(summary['base'], path))} | {share(figure(summary['judge'], path))} |")
    return "\n".join(lines)


def _sections(summary: Mapping[str, Any]) -> Iterator[str]:
    minutes = summary["seconds"]["total"] / 60
    evaluation = summary["judge"]
    often = "once" if summary["epochs"] == 1 else f"{summary['epochs']:g} times"
    yield f"# {JUDGE}: the embedded judge"
    yield (
        f"A LoRA adapter on SmolLM2-135M-Instruct (`{BASE}`) that thinks, then scores answers to arithmetic questions "
        "from 1 to 5, one at a time or two side by side. It shows what the recipe of Flex-Judge ([arXiv 2505.18601]"
        "(https://arxiv.org/abs/2505.18601)) does on a model that runs anywhere. It knows sums, and is no judge of "
        "anything else."
    )
    yield (
        f"It was tuned on {summary['judgments']:,} judgments, each seen {often}, that a program wrote "
        f"(`{TEACHER}`: **synthetic**) of answers that the base model sampled to {summary['questions_taught']:,} "
        f"questions, which ask for {summary['sums_taught']:,} different sums. Made again by"
    )
    yield "    python -m flex_judge.experiments.studies.arithmetic_loop judge"
    yield f"which took {minutes:.0f} minutes."
    yield "## HeldOutEvaluation"
    yield (
        f"On {evaluation['singles']['asked']:,} different answers that the base model sampled to "
        f"{summary['evaluation_questions']} other questions, none of which asks for a sum that was taught, and "
        f"{evaluation['pairs']['asked'] // 2} pairs of them in both orders. Judged greedily, once; "
        "a verdict without a score "
        "is wrong."
    )
    yield table(summary)
