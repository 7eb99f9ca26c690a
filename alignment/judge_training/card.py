"""Model card of a judge: training data, settings and evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow, as_number, as_percent
from flex_judge.alignment.training.card import build_settings_section, is_adapter, save_card

JUDGE_METRICS = (
    ("balanced_accuracy", "Balanced accuracy"),
    ("accuracy", "Accuracy"),
    ("pointwise", "Pointwise, balanced"),
    ("pairwise", "Pairwise, balanced"),
    ("agreement", "Exact score agreement"),
    ("parsed", "Parsed without forcing"),
)
"""Name in the summary and title of each metric."""


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the model card of a judge to `README.md` in its folder.

    Args:
        folder: Folder of the judge.
        summary: Summary of a `flex-judge sft` run.
    """
    tags = ["trl", "sft", "flex-judge", "reward-model"]
    save_card(folder, summary["base"], tags, _build_report(folder, summary))


def _build_report(folder: Path, summary: Mapping[str, Any]) -> Report:
    form = "A LoRA adapter for" if is_adapter(folder) else "A full fine-tune of the language model of"
    intro = [
        f"{form} `{summary['base']}`, trained to reason and then score answers ([arXiv 2505.18601]"
        f"(https://arxiv.org/abs/2505.18601)) on {summary['rows']:,} judgments from `{summary['data']}`. "
        f"{summary['learning']:,} of {summary['parameters']:,} parameters were trained. Encoders and projectors, if "
        "the model has any, were frozen."
    ]
    if summary["dropped"]:
        reasons = "; ".join(f"{reason}: {n:,}" for reason, n in summary["dropped"].items())
        intro.append(f"Dropped rows: {reasons}.")
    sections = [Section("Evaluation", _describe_evaluations(summary)), build_settings_section(summary["trl"])]
    return Report(f"{summary['base']} as a judge", intro, sections)


def _describe_evaluations(summary: Mapping[str, Any]) -> Iterator[Block]:
    if summary["metrics"] is None:
        yield "The judge was not evaluated."
        return
    yield (
        f"On {summary['held_out_rows']:,} held-out judgments, with greedy decoding and up to "
        f"{summary['think_tokens']:,} tokens of reasoning. A pairwise or listwise verdict is right if it prefers the "
        "same response as the reference. A pointwise verdict is right if its score is on the same side of the middle "
        "of the scale. A verdict without a score counts as wrong. Balanced accuracy is the mean over the possible "
        "outcomes."
    )
    yield build_evaluations_table(summary)


def build_evaluations_table(summary: Mapping[str, Any]) -> Table:
    """Build the table of metrics by training step, with the saved judge in the last row."""
    final = {**summary["metrics"], "step": "this judge"}
    rows: list[TableRow] = []
    for evaluation in (*summary["evaluations"], final):
        metrics = [as_percent(evaluation[name]) for name, _ in JUDGE_METRICS]
        rows.append((str(evaluation["step"]), *metrics, as_number(evaluation.get("loss"), digits=4)))
    return Table(("step", *(title for _, title in JUDGE_METRICS), "loss"), rows)
