"""Model card of a tuned policy: training data, settings, and metrics before and after training."""

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
"""Short name, full name and arXiv id of each training method."""
_METRICS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("score", "Judge score", {}),
    ("right", "Right answers", {"scale": 100, "digits": 1, "unit": " %"}),
    ("tokens", "Answer length, tokens", {}),
)
"""Name in the summary, title, and format of each metric."""


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write the model card of a policy to `README.md` in its folder.

    Args:
        folder: Folder of the policy.
        summary: Summary of the training run.
    """
    save_card(folder, summary["policy"], ["trl", summary["command"], "flex-judge"], _build_report(folder, summary))


def is_adapter(folder: Path) -> bool:
    """Check whether a folder holds an adapter instead of a full model."""
    return (folder / "adapter_config.json").is_file()


def save_card(folder: Path, base: str, tags: Sequence[str], report: Report) -> None:
    """Write the card of a tuned model to `README.md` in its folder, with the YAML header that the hub reads.

    Args:
        folder: Folder of the model.
        base: Name of the base model.
        tags: Tags for the hub.
        report: Body of the card.
    """
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(
        # Embedded names and local paths are not model ids of the hub.
        base_model=None if base in EMBEDDED or Path(base).is_dir() else base,
        library_name="peft" if is_adapter(folder) else "transformers",
        tags=list(tags),
    )
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{to_markdown(report)}").save(folder / "README.md")


def build_settings_section(trl: Mapping[str, Any]) -> Section:
    """Build the section with TRL's settings that differ from their defaults."""
    settings = "\n".join(f"- {name}: `{trl[name]}`" for name in sorted(trl) if trl[name] is not None)
    return Section("Settings that differ from TRL's defaults", [settings])


def build_metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Build the table of a policy's metrics before and after training, with the mean difference per prompt."""
    steps = ("before", "after", "difference")
    rows: list[TableRow] = []
    for name, title, number_format in _METRICS:
        # `right` is None if the right answers are unknown, `score` if nothing was scored.
        if metrics[name]:
            rows.append((title, *(as_number(metrics[name][step], **number_format) for step in steps)))
    return Table(("", *steps), rows)


def _build_report(folder: Path, summary: Mapping[str, Any]) -> Report:
    short_name, method, paper = METHODS[summary["command"]]
    policy = summary["policy"]
    form = "A LoRA adapter for" if is_adapter(folder) else "A full fine-tune of"
    judge = summary["judge_url"] or summary["judge"]
    adapter = f" with the adapter `{summary['judge_adapter']}`" if summary["judge_adapter"] else ""
    intro = (
        f"{form} `{policy}`, trained with {method} ([arXiv {paper}](https://arxiv.org/abs/{paper})) as implemented in "
        f"TRL, on {summary['rows']:,} rows of `{summary['data']}`. It was evaluated by the judge `{judge}`{adapter} "
        f"with the rubric `{summary['rubric']}`."
    )
    metrics = summary["measured"]
    blocks = _describe_metrics(metrics, summary["held_out_samples"]) if metrics else ["The policy was not evaluated."]
    return Report(
        f"{policy} tuned with {short_name}",
        [intro],
        [Section("Evaluation before and after training", blocks), build_settings_section(summary["trl"])],
    )


def _describe_metrics(metrics: Mapping[str, Any], samples: int) -> Iterator[Block]:
    answers = "one sampled answer" if samples == 1 else f"{samples} sampled answers"
    yield (
        f"On {metrics['prompts']:,} held-out prompts, with {answers} per prompt. Means with 95 % intervals over "
        "prompts; the difference is taken prompt by prompt. A policy that is trained on a judge's scores can get "
        "higher scores from that judge without being better."
    )
    yield build_metrics_table(metrics)
    unscored = metrics["answers_without_a_score"]
    yield (
        f"Answers without a score: {unscored['before']} before, {unscored['after']} after. Prompts without a score, "
        f"which are excluded from the scores: {metrics['prompts_without_a_score']}. Prompts without a result: "
        f"{metrics['prompts_lost']}."
    )
