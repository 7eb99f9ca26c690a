"""The model card of a judge: what it was made of, how, and how it did in its exams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.training.card import is_adapter, save_card, settings_sections

JUDGE_METRICS = (
    ("balanced_accuracy", "Right verdicts, balanced over the sides"),
    ("accuracy", "Right verdicts"),
    ("singles", "Right of single responses, balanced"),
    ("pairs", "Right of pairs, balanced"),
    ("agreement", "Exactly the reference's scores"),
    ("parsed", "Answered without being forced"),
)


def share(value: float | None) -> str:
    """A share in per cent."""
    return "-" if value is None else f"{100 * value:.1f} %"


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `README.md` beside a judge, with the header that the hub reads.

    Args:
        summary: that of a run of `flex-judge sft`.
    """
    form = "A LoRA adapter on" if is_adapter(folder) else "All of the language model of"
    tags = ["trl", "sft", "flex-judge", "reward-model"]
    save_card(folder, summary["base"], tags, _sections(summary, form))


def _sections(summary: Mapping[str, Any], form: str) -> Iterator[str]:
    yield f"# {summary['base']} as a judge"
    yield (
        f"{form} `{summary['base']}`, tuned to think and then score answers ([arXiv 2505.18601]"
        f"(https://arxiv.org/abs/2505.18601)) on {summary['rows']:,} judgments of `{summary['data']}`. "
        f"{summary['learning']:,} of {summary['parameters']:,} parameters learnt; encoders and projectors, where there "
        "are any, stayed as they were."
    )
    if summary["dropped"]:
        yield (
            "Rows that were left out: "
            + "; ".join(f"{reason}: {n:,}" for reason, n in summary["dropped"].items())
            + "."
        )
    yield "## Exams"
    yield from _evaluations(summary)
    yield from settings_sections(summary["trl"])


def _evaluations(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["metrics"] is None:
        yield "It was not examined."
        return
    yield (
        f"On {summary['held_out_rows']:,} held-out judgments, judged greedily with {summary['think_tokens']:,} tokens "
        "to think. A verdict is right if it prefers the response that the reference prefers, or puts a single response "
        "on the same side of the middle of the scale; without a score it is wrong."
    )
    lines = [
        "| step | " + " | ".join(title for _, title in JUDGE_METRICS) + " | loss |",
        "|---" * (len(JUDGE_METRICS) + 2) + "|",
    ]
    for evaluation in summary["evaluations"]:
        cells = " | ".join(share(evaluation[name]) for name, _ in JUDGE_METRICS)
        loss = "-" if evaluation["loss"] is None else f"{evaluation['loss']:.4g}"
        lines.append(f"| {evaluation['step']} | {cells} | {loss} |")
    cells = " | ".join(share(summary["metrics"][name]) for name, _ in JUDGE_METRICS)
    lines.append(f"| this judge | {cells} | |")
    yield "\n".join(lines)
