"""The model card of a tuned policy: its training data, its settings, and metrics before and after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.reporting.markdown import to_markdown
from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow, as_number
from flex_judge.judges.models.embedded import EMBEDDED

METHODS = {
    "dpo": ("DPO", "Direct Preference Optimization", "2305.18290"),
    "grpo": ("GRPO", "Group Relative Policy Optimization", "2402.03300"),
}
_METRICS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("score", "Score by the judge", {}),
    ("right", "Right answers", {"scale": 100, "digits": 1, "unit": " %"}),
    ("tokens", "Tokens of an answer", {}),
)
"""Name in the summary, title, and format of each metric."""


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the model card of a policy to `README.md` in its folder.

    Args:
        folder: the folder of the policy.
        summary: the summary of the training run.
    """
    save_card(folder, summary["policy"], ["trl", summary["command"], "flex-judge"], _build_report(folder, summary))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (folder / "adapter_config.json").is_file()


def save_card(folder: Path, base: str, tags: Sequence[str], report: Report) -> None:
    """Write the card of a tuned model to `README.md` in its folder, with the header that the hub reads.

    Args:
        folder: the folder of the model.
        base: name of the model that was tuned.
        tags: tags for the hub.
        report: the body of the card.
    """
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(
        base_model=None if base in EMBEDDED or Path(base).is_dir() else base,
        library_name="peft" if is_adapter(folder) else "transformers",
        tags=list(tags),
    )
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{to_markdown(report)}").save(folder / "README.md")


def build_settings_section(trl: Mapping[str, Any]) -> Section:
    """List TRL's settings that differ from its defaults."""
    settings = "\n".join(f"- {name}: `{trl[name]}`" for name in sorted(trl) if trl[name] is not None)
    return Section("Settings that are not TRL's defaults", [settings])


def build_metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Metrics of a policy before and after training, with the difference prompt by prompt."""
    steps = ("before", "after", "difference")
    rows: list[TableRow] = [
        (title, *(as_number(metrics[name][step], **form) for step in steps))
        for name, title, form in _METRICS
        if metrics[name]
    ]
    return Table(("", *steps), rows)


def _build_report(folder: Path, summary: Mapping[str, Any]) -> Report:
    short, method, paper = METHODS[summary["command"]]
    policy = summary["policy"]
    form = "A LoRA adapter on" if is_adapter(folder) else "All weights of"
    judge = summary["judge_url"] or summary["judge"]
    adapter = f" with the adapter `{summary['judge_adapter']}`" if summary["judge_adapter"] else ""
    intro = (
        f"{form} `{policy}`, tuned with {method} ([arXiv {paper}](https://arxiv.org/abs/{paper})) as TRL implements "
        f"it, on {summary['rows']:,} rows of `{summary['data']}`. The judge that measures it is `{judge}`{adapter}, "
        f"with the rubric `{summary['rubric']}`."
    )
    measured = summary["measured"]
    blocks = _describe_metrics(measured, summary["held_out_samples"]) if measured else ["It was not measured."]
    return Report(
        f"{policy} tuned with {short}",
        [intro],
        [Section("Measured before and after", blocks), build_settings_section(summary["trl"])],
    )


def _describe_metrics(metrics: Mapping[str, Any], samples: int) -> Iterator[Block]:
    answers = "one sampled answer" if samples == 1 else f"{samples} sampled answers"
    yield (
        f"On {metrics['prompts']:,} prompts that were not trained on, {answers} to each; means with 95 % intervals "
        "over prompts. The difference is taken prompt by prompt. A policy that is trained on a judge's scores can get "
        "higher scores from that judge without being better."
    )
    yield build_metrics_table(metrics)
    unscored = metrics["answers_without_a_score"]
    yield (
        f"Answers without a score: {unscored['before']} before, {unscored['after']} after; prompts without one, which "
        f"are left out of the scores: {metrics['prompts_without_a_score']}; prompts lost: {metrics['prompts_lost']}."
    )
