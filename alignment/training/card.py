"""The model card of a tuned policy: what it was trained on, how, and what was measured before and after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flex_judge.alignment.best_of_n.metrics import interval
from flex_judge.judges.models.embedded import EMBEDDED

METHODS = {
    "dpo": ("DPO", "Direct Preference Optimization", "2305.18290"),
    "grpo": ("GRPO", "Group Relative Policy Optimization", "2402.03300"),
}
FIGURES = (("score", "Score by the judge", 1), ("right", "Right answers", 100), ("tokens", "Tokens of an answer", 1))


def write_card(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write `README.md` beside a policy, with the header that the hub reads.

    Args:
        summary: that of a training run.
    """
    policy = summary["policy"]
    form = "A LoRA adapter on" if is_adapter(folder) else "All weights of"
    save_card(folder, policy, ["trl", summary["command"], "flex-judge"], _sections(summary, policy, form))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and not a whole model."""
    return (folder / "adapter_config.json").is_file()


def save_card(folder: Path, base: str, tags: Sequence[str], sections: Iterable[str]) -> None:
    """Write the card of a tuned model.

    Args:
        folder: of the model.
        base: what it was tuned from, by its name.
        tags: for the hub.
        sections: of the card, in Markdown.
    """
    from huggingface_hub import ModelCard, ModelCardData

    header = ModelCardData(
        base_model=None if base in EMBEDDED or Path(base).is_dir() else base,
        library_name="peft" if is_adapter(folder) else "transformers",
        tags=list(tags),
    )
    text = "\n\n".join(sections)
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{text}\n").save(folder / "README.md")


def settings_sections(trl: Mapping[str, Any]) -> Iterator[str]:
    """What a card says of TRL's settings."""
    yield "## Settings that are not TRL's defaults"
    yield "\n".join(f"- {name}: `{trl[name]}`" for name in sorted(trl) if trl[name] is not None)


def _sections(summary: Mapping[str, Any], policy: str, form: str) -> Iterator[str]:
    short, method, paper = METHODS[summary["command"]]
    judge = summary["judge_url"] or summary["judge"]
    adapter = f" with the adapter `{summary['judge_adapter']}`" if summary["judge_adapter"] else ""
    yield f"# {policy} tuned with {short}"
    yield (
        f"{form} `{policy}`, tuned with {method} ([arXiv {paper}](https://arxiv.org/abs/{paper})) as TRL implements "
        f"it, on {summary['rows']:,} rows of `{summary['data']}`. The judge that measures it is `{judge}`{adapter}, "
        f"with the rubric `{summary['rubric']}`."
    )
    yield "## Measured before and after"
    if summary["measured"] is None:
        yield "It was not measured."
    else:
        yield from _measured(summary["measured"], summary["held_out_samples"])
    yield from settings_sections(summary["trl"])


def _measured(figures: Mapping[str, Any], samples: int) -> Iterator[str]:
    answers = "one sampled answer" if samples == 1 else f"{samples} sampled answers"
    yield (
        f"On {figures['prompts']:,} prompts that were not trained on, {answers} to each; means with 95 % intervals "
        "over prompts. The difference is taken prompt by prompt. A policy that is trained on what a judge says can "
        "please that judge more without being better."
    )
    lines = ["| | before | after | difference |", "|---|---|---|---|"]
    for name, title, scale in FIGURES:
        if found := figures[name]:
            cells = (interval(found[when], scale) for when in ("before", "after", "difference"))
            lines.append(f"| {title} | {' | '.join(cells)} |")
    yield "\n".join(lines)
    lost = figures["answers_without_a_score"]
    yield (
        f"Answers without a score: {lost['before']} before, {lost['after']} after; prompts without one, which are left "
        f"out of the scores: {figures['prompts_without_a_score']}; prompts lost: {figures['prompts_lost']}."
    )
