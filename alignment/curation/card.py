"""Data card of a curated data set: contents, method, dropped rows and limitations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.stats import QUANTILES
from flex_judge.alignment.preferences.warnings import format_percent
from flex_judge.alignment.reporting.markdown import format_code, join_lines, to_markdown
from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow

SPLITS = {"train": "train.jsonl", "held_out": "held_out.jsonl"}
"""Name of each split and its file in the curated folder."""
Summary = Mapping[str, Any]
TITLE = "Judgments for training a judge"


def render_card(summary: Summary) -> str:
    """Render the data card as Markdown with the YAML header that the Hugging Face hub reads.

    Args:
        summary: Summary of a `flex-judge curate` run, see `flex_judge.alignment.curation.stats.summarise_curation`
            and `flex_judge.experiments.commands.curate.run`.

    Returns:
        The text of `README.md`.
    """
    sections = [
        Section("Loading", _LOADING),
        Section("Counts", [Table(("step", "kept", "dropped"), _list_counts(summary))]),
        Section("Dropped rows", _list_drop_reasons(summary)),
        Section("Statistics", _describe_samples(summary)),
        Section("Method", [Table(("", ""), _list_settings(summary), text_columns=2), *_describe_method(summary)]),
        Section("Columns", [_COLUMNS]),
        Section("License", [_describe_license(summary)]),
        Section("Limitations", [_describe_limits(summary)]),
    ]
    return f"{_render_header(summary)}\n{to_markdown(Report(TITLE, _build_intro(summary), sections))}"


def _render_header(summary: Summary) -> str:
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": name} for split, name in SPLITS.items() if summary["samples"][split]]
    data = DatasetCardData(
        pretty_name=TITLE,
        annotations_creators=["machine-generated"],
        tags=["synthetic", "llm-as-a-judge", "reward-model", "flex-judge", "trl", "sft"],
        # `datasets` caches a folder by its card, so the digest makes changed rows load anew.
        configs=[{"config_name": "default", "data_files": files, "description": f"rows {summary['digest']}"}],
    )
    note = "# license: choose one that the terms of the source and of the teacher allow; see the License section\n"
    return f"---\n{note}{data.to_yaml()}\n---\n"


def _build_intro(summary: Summary) -> Iterator[str]:
    counts = {split: sum(kinds.values()) for split, kinds in summary["samples"].items()}
    teacher = "a program: its judgments are synthetic" if summary["synthetic"] else "a model; no human judged"
    yield (
        f"{counts['train']:,} training samples and {counts['held_out']:,} held-out samples: judgments of one, two or "
        "more answers, with reasoning followed by scores, in the prompt and completion format of Flex-Judge "
        f"(arXiv 2505.18601). The source is {format_code(summary['source'])}. "
        f"The teacher is {format_code(summary['teacher'])}, {teacher}."
    )
    missing = [f"{n:,} too few ({kind})" for kind, n in summary["missing"].items()]
    if missing:
        yield f"**There are fewer samples than requested:** {'; '.join(missing)}."


_LOADING = (
    '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH_OF_THIS_FOLDER", split="train")\n```',
    "TRL's SFTTrainer takes the data set unchanged and computes the loss on the completion only.",
)


def _list_counts(summary: Summary) -> Iterator[TableRow]:
    yield "rows read", summary["rows"], ""
    yield "valid rows (question, answers and scores)", summary["judged_rows"], _sum_counts(summary["bad_rows"])
    yield "usable judgments of the teacher", summary["judgments"], _sum_counts(summary["bad_judgments"])
    for step in summary["steps"]:
        yield step["step"], step["kept"], _sum_counts(step["dropped"])
    for kind, number in summary["candidates"].items():
        yield f"- {kind} candidates", number, ""
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"- {kind} samples, {split.replace('_', ' ')}", number, ""


def _list_drop_reasons(summary: Summary) -> Iterator[Block]:
    rows = [(f"row: {reason}", n) for reason, n in summary["bad_rows"].items()]
    rows += [(f"judgment: {reason}", n) for reason, n in summary["bad_judgments"].items()]
    rows += [(f"{step['step']}: {reason}", n) for step in summary["steps"] for reason, n in step["dropped"].items()]
    rows += [(f"unsuitable as {reason}", n) for reason, n in summary["unfit"].items()]
    yield Table(("reason", "count"), rows) if rows else "Nothing was dropped."
    yield (
        "`dropped.jsonl` lists the dropped rows. It omits judgments that are unsuitable for one kind of sample, "
        "because they may be samples of another kind."
    )


def _describe_samples(summary: Summary) -> Iterator[Block]:
    lengths = [
        (f"{kind}, {split.replace('_', ' ')}", *(quantiles[name] for name in QUANTILES))
        for split, kinds in summary["tokens"].items()
        for kind, quantiles in kinds.items()
    ]
    if not lengths:
        yield "There are no samples."
        return
    note = f"Tokens are counted with the tokenizer of {format_code(summary['tokenizer'])}."
    yield Table(("reasoning length, tokens", *QUANTILES), lengths, note=note)
    shares = [
        (f"{title}: {name}, {split.replace('_', ' ')}", n, format_percent(n / sum(counts.values())))
        for title, key in (
            ("pairwise winner", "winners"),
            ("listwise winner", "batch_winners"),
            ("scale", "scales"),
        )
        for split, counts in summary[key].items()
        for name, n in sorted(counts.items())
    ]
    yield Table(("", "count", "share"), shares)
    scores = [
        (f"{scale}, {split.replace('_', ' ')}", ", ".join(f"{score}: {n}" for score, n in counts.items()))
        for split, scales in summary["single_scores"].items()
        for scale, counts in scales.items()
    ]
    if scores:
        yield Table(("pointwise scores", "score: count"), scores, text_columns=2)


def _list_settings(summary: Summary) -> Iterator[TableRow]:
    yield "source", format_code(summary["source"])
    yield "teacher", format_code(summary["teacher"])
    if not summary["synthetic"]:
        yield "judgments per row", summary["samples_per_row"]
        yield "judging settings", format_code(summary["judging"])
    for scale, name in summary["rubrics"].items():
        yield f"rubric on {scale}", format_code(name)
    for name, value in summary["curation"].items():
        yield name.replace("_", " "), join_lines(str(value))


def _describe_method(summary: Summary) -> Iterator[str]:
    yield (
        "A pointwise sample is cut out of a pairwise judgment: the second answer and its score are removed, and the "
        "reasoning ends before the first sentence that mentions the second assistant or both. `Assistant 1` becomes "
        "`the assistant`. No prompt occurs in two samples, and no held-out question is in the training split. The "
        "held-out samples are chosen by a hash of their prompts, so they do not change with the number of training "
        "samples. Winners are balanced by selection; answers were not swapped, because the reasoning names the "
        "assistants."
    )
    if summary["scales"]["train"].get(FIVE) and TEN in summary["rubrics"]:
        unmapped = ", ".join(f"{reason} ({n:,})" for reason, n in summary["kept_scale"].items())
        yield (
            f"Samples on {FIVE} were mapped from {TEN}: scores and reference scores are halved and rounded up, so 1 "
            f"and 2 become 1, and 9 and 10 become 5. Samples that were never mapped: {unmapped or 'none'}."
        )


_COLUMNS = """\
- `prompt`, `completion`: messages. The user turn is the text that the judge's renderer produces.
- `id`: sample identifier. `row`: row number in the source, from 1. `kind`: `pointwise`, `pairwise` or `listwise`.
- `question`, `responses`: the judged texts. `scores`, `reference_scores`: scores on `scale`.
- `rubric`, `scale`: a rubric name for `flex_judge.judges.rubrics.load_rubric`, and its scale.
- `reasoning_tokens`: length of the reasoning. `teacher`: author of the reasoning."""


def _describe_license(summary: Summary) -> str:
    if summary["synthetic"]:
        return (
            "Programs wrote the questions, scores and reasoning. The answers are under the terms of the policy that "
            "sampled them."
        )
    return (
        "This data set is derived from its source and is under the source's terms. JudgeLM-100K is CC BY-NC 4.0 "
        "(non-commercial use), and so is every data set derived from it. The teacher's terms apply too."
    )


def _describe_limits(summary: Summary) -> str:
    if summary["synthetic"]:
        return (
            "The reasoning was written by a program and follows one pattern. A judge trained on it can judge the "
            "embedded task and nothing else. Scores are either the lowest or the highest of the scale."
        )
    return (
        "Agreement with the reference scores also selects rows on which teacher and reference make the same mistake. "
        "Long reasoning is not always good reasoning. Paraphrased duplicates and paraphrased benchmark questions are "
        "not detected. The cut of pointwise samples is based on keywords, so a sample may still hint at a second "
        "answer."
    )


def _sum_counts(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
