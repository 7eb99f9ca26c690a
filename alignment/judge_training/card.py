"""The model card of a judge: its training data, its settings and its evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow, as_number, as_percent
from flex_judge.alignment.training.card import build_settings_section, is_adapter, save_card

JUDGE_METRICS = (
    ("balanced_accuracy", "Right verdicts, balanced over the sides"),
    ("accuracy", "Right verdicts"),
    ("pointwise", "Right of single responses, balanced"),
    ("pairwise", "Right of pairs, balanced"),
    ("agreement", "Exactly the reference's scores"),
    ("parsed", "Answered without being forced"),
)


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the model card of a judge to `README.md` in its folder.

    Args:
        folder: the folder of the judge.
        summary: the summary of a run of `flex-judge sft`.
    """
    tags = ["trl", "sft", "flex-judge", "reward-model"]
    save_card(folder, summary["base"], tags, _build_report(folder, summary))


def _build_report(folder: Path, summary: Mapping[str, Any]) -> Report:
    form = "A LoRA adapter on" if is_adapter(folder) else "All of the language model of"
    intro = [
        f"{form} `{summary['base']}`, tuned to think and then score answers ([arXiv 2505.18601]"
        f"(https://arxiv.org/abs/2505.18601)) on {summary['rows']:,} judgments of `{summary['data']}`. "
        f"{summary['learning']:,} of {summary['parameters']:,} parameters were trained; encoders and projectors, if "
        "there are any, were frozen."
    ]
    if summary["dropped"]:
        reasons = "; ".join(f"{reason}: {n:,}" for reason, n in summary["dropped"].items())
        intro.append(f"Rows that were left out: {reasons}.")
    sections = [Section("Evaluations", _describe_evaluations(summary)), build_settings_section(summary["trl"])]
    return Report(f"{summary['base']} as a judge", intro, sections)


def _describe_evaluations(summary: Mapping[str, Any]) -> Iterator[Block]:
    if summary["metrics"] is None:
        yield "It was not evaluated."
        return
    yield (
        f"On {summary['held_out_rows']:,} held-out judgments, with greedy decoding and up to "
        f"{summary['think_tokens']:,} tokens of reasoning. A verdict is right if it prefers the response that the "
        "reference prefers, or puts a single response on the same side of the middle of the scale. A verdict without "
        "a score counts as wrong."
    )
    yield build_evaluations_table(summary)


def build_evaluations_table(summary: Mapping[str, Any]) -> Table:
    """Metrics of the judge by training step, the saved judge last."""
    final = {**summary["metrics"], "step": "this judge"}
    rows: list[TableRow] = [
        (str(one["step"]), *(as_percent(one[name]) for name, _ in JUDGE_METRICS), as_number(one.get("loss"), digits=4))
        for one in (*summary["evaluations"], final)
    ]
    return Table(("step", *(title for _, title in JUDGE_METRICS), "loss"), rows)
