"""The data card of a curated data set: contents, method, dropped rows and limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.stats import QUANTILES
from flex_judge.alignment.preferences.warnings import format_percent
from flex_judge.alignment.reporting.markdown import format_code, join_lines, to_markdown
from flex_judge.alignment.reporting.model import Block, Report, Section, Table, TableRow

SPLITS = {"train": "train.jsonl", "held_out": "held_out.jsonl"}
Summary = Mapping[str, Any]
TITLE = "Judgments for tuning a judge"


def render_card(summary: Summary) -> str:
    """Write the card of a data set as Markdown, with the header that the hub reads.

    Args:
        summary: the summary of a run, see `flex_judge.alignment.curation.stats.facts` and
            `flex_judge.experiments.commands.curate.run`.
    """
    sections = [
        Section("Loading", _LOADING),
        Section("Counts", [Table(("after", "kept", "dropped"), _list_counts(summary))]),
        Section("What was dropped", _list_drop_reasons(summary)),
        Section("Samples", _describe_samples(summary)),
        Section(
            "How it was made", [Table(("", ""), _list_settings(summary), text_columns=2), *_describe_method(summary)]
        ),
        Section("Columns", [_COLUMNS]),
        Section("License", [_describe_license(summary)]),
        Section("Limits", [_describe_limits(summary)]),
    ]
    return f"{_render_header(summary)}\n{to_markdown(Report(TITLE, _build_intro(summary), sections))}"


def _render_header(summary: Summary) -> str:
    from huggingface_hub import DatasetCardData

    files = [{"split": split, "path": name} for split, name in SPLITS.items() if summary["samples"][split]]
    data = DatasetCardData(
        pretty_name=TITLE,
        annotations_creators=["machine-generated"],
        tags=["synthetic", "llm-as-a-judge", "reward-model", "flex-judge", "trl", "sft"],
        configs=[{"config_name": "default", "data_files": files, "description": f"rows {summary['digest']}"}],
    )
    note = "# license: yours to choose, under the terms of the rows and of the teacher; see the end of this card\n"
    return f"---\n{note}{data.to_yaml()}\n---\n"


def _build_intro(summary: Summary) -> Iterator[str]:
    counts = {split: sum(kinds.values()) for split, kinds in summary["samples"].items()}
    yield (
        f"{counts['train']:,} samples to train on and {counts['held_out']:,} held out: judgments of one answer, of "
        "two, or of more, reasoned and then scored, in the prompt and completion of a Flex-Judge (arXiv 2505.18601). "
        f"Made from {format_code(summary['source'])}; the teacher is {format_code(summary['teacher'])}"
        + (", a program: its judgments are synthetic." if summary["synthetic"] else ", a model; no human has judged.")
    )
    missing = [f"{n:,} fewer than wanted ({kind})" for kind, n in summary["missing"].items()]
    if missing:
        yield f"**There are fewer samples than requested:** {'; '.join(missing)}."


_LOADING = (
    '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH_OF_THIS_FOLDER", split="train")\n```',
    "TRL's SFTTrainer takes the data set unchanged and trains on the completion only.",
)


def _list_counts(summary: Summary) -> Iterator[TableRow]:
    yield "rows read", summary["rows"], ""
    yield (
        "rows that are a question, its answers and their scores",
        summary["judged_rows"],
        _sum_counts(summary["bad_rows"]),
    )
    yield "judgments of the teacher that can be used", summary["judgments"], _sum_counts(summary["bad_judgments"])
    for step in summary["steps"]:
        yield step["step"], step["kept"], _sum_counts(step["dropped"])
    for kind, number in summary["candidates"].items():
        yield f"- fit to be a {kind}", number, ""
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"- {kind} samples, {split.replace('_', ' ')}", number, ""


def _list_drop_reasons(summary: Summary) -> Iterator[Block]:
    rows = [(f"row: {reason}", n) for reason, n in summary["bad_rows"].items()]
    rows += [(f"judgment: {reason}", n) for reason, n in summary["bad_judgments"].items()]
    rows += [(f"{step['step']}: {reason}", n) for step in summary["steps"] for reason, n in step["dropped"].items()]
    rows += [(f"not fit as {reason}", n) for reason, n in summary["unfit"].items()]
    yield Table(("reason", "count"), rows) if rows else "Nothing."
    yield "`dropped.jsonl` lists them with their rows, except the unfit ones, which may be samples of another kind."


def _describe_samples(summary: Summary) -> Iterator[Block]:
    lengths = [
        (f"{kind}, {split.replace('_', ' ')}", *(quantiles[name] for name in QUANTILES))
        for split, kinds in summary["tokens"].items()
        for kind, quantiles in kinds.items()
    ]
    if not lengths:
        yield "There is no sample."
        return
    note = f"Counted by the tokenizer of {format_code(summary['tokenizer'])}."
    yield Table(("tokens of the reasoning", *QUANTILES), lengths, note=note)
    shares = [
        (f"{title}: {name}, {split.replace('_', ' ')}", n, format_percent(n / sum(counts.values())))
        for title, key in (("winner of a pair", "winners"), ("winner of a batch", "batch_winners"), ("scale", "scales"))
        for split, counts in summary[key].items()
        for name, n in sorted(counts.items())
    ]
    yield Table(("", "count", "share"), shares)
    scores = [
        (f"{scale}, {split.replace('_', ' ')}", ", ".join(f"{score}: {n}" for score, n in tally.items()))
        for split, scales in summary["single_scores"].items()
        for scale, tally in scales.items()
    ]
    if scores:
        yield Table(("pointwise scores", "score: count"), scores, text_columns=2)


def _list_settings(summary: Summary) -> Iterator[TableRow]:
    yield "source", format_code(summary["source"])
    yield "teacher", format_code(summary["teacher"])
    if not summary["synthetic"]:
        yield "judgments of a row", summary["samples_per_row"]
        yield "judging", format_code(summary["judging"])
    for scale, name in summary["rubrics"].items():
        yield f"rubric on {scale}", format_code(name)
    for name, value in summary["curation"].items():
        yield name.replace("_", " "), join_lines(str(value))


def _describe_method(summary: Summary) -> Iterator[str]:
    yield (
        "A single is a judgment of two answers from which the second answer, its score, and all reasoning from the "
        "first sentence on that speaks of the second assistant or of both, were cut; `Assistant 1` became `the "
        "assistant`. No prompt is in two samples, and no question of the held-out samples is trained on; these are "
        "chosen by a hash of their prompts, so that they are the same at any size. Winners are balanced by choosing: "
        "no text was swapped, as the reasoning names the assistants."
    )
    if summary["scales"]["train"].get(FIVE) and TEN in summary["rubrics"]:
        stays = ", ".join(f"{why} ({n:,})" for why, n in summary["kept_scale"].items())
        yield (
            f"Samples on {FIVE} were mapped from {TEN}: a score is halved and rounded up, so 1 and 2 are 1, 9 and 10 "
            f"are 5; reference scores likewise. Never mapped: {stays or 'there were no such'}."
        )


_COLUMNS = """\
- `prompt`, `completion`: messages. The user's turn is the text that the judge's renderer makes.
- `id`, `row`: the sample; the row of the source, from 1. `kind`: `single`, `pair` or `batch`.
- `question`, `responses`: what is judged. `scores`, `reference_scores`: on `scale`.
- `rubric`, `scale`: a name that `flex_judge.judges.rubrics.load_rubric` takes, and its scale.
- `reasoning_tokens`, `teacher`: length of the reasoning, and who wrote it."""


def _describe_license(summary: Summary) -> str:
    if summary["synthetic"]:
        return "Questions, scores and reasoning are made by programs; the answers are under the terms of their policy."
    return (
        "This data set is made from its source and is under the source's terms. JudgeLM-100K is CC BY-NC 4.0 (for "
        "non-commercial use): if the rows are from there, so is this data set. The teacher's terms apply too."
    )


def _describe_limits(summary: Summary) -> str:
    if summary["synthetic"]:
        return (
            "The reasoning is a program's and follows one pattern; a judge that learns it judges the embedded task and "
            "nothing else. Scores are the lowest or the highest."
        )
    return (
        "Agreement with the reference scores selects for rows on which teacher and reference make the same mistakes. "
        "A long reasoning is not always a good one. Near-duplicates and benchmark questions that were paraphrased are "
        "not found. What sentences speak of is told by their words, so a cut single may still hint at a second answer."
    )


def _sum_counts(counts: Mapping[str, int]) -> int:
    return sum(counts.values())
