"""The data card of a curated data set: what it is, how it was made, what was left out, and what it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flex_judge.alignment.curation.scales import FIVE, TEN
from flex_judge.alignment.curation.stats import QUANTILES
from flex_judge.alignment.preferences.warnings import percent

SPLITS = {"train": "train.jsonl", "held_out": "held_out.jsonl"}
Summary = Mapping[str, Any]
Table = Iterable[Sequence[object]]


def card(summary: Summary) -> str:
    """The card as Markdown with the header that the hub reads, to be saved as `README.md` beside the files.

    Args:
        summary: of a run, see `flex_judge.alignment.curation.stats.facts` and
        `flex_judge.experiments.commands.curate.run`.
    """
    sections = ["# Judgments for tuning a judge", *_opening(summary), *_warnings(summary), *_loading()]
    sections += ["## Counts", _table(("after", "kept", "dropped"), _flow(summary), left=1)]
    sections += ["## What was dropped", *_dropped(summary)]
    sections += ["## Samples", *_samples(summary)]
    sections += ["## How it was made", _table(("", ""), _settings(summary), left=2), *_method(summary)]
    sections += ["## Columns", _columns(), "## License", _licence(summary), "## Limits", _limits(summary)]
    return f"{_header(summary)}\n" + "\n\n".join(sections) + "\n"


def _header(summary: Summary) -> str:
    from huggingface_hub import DatasetCardData

    there = {split: name for split, name in SPLITS.items() if summary["samples"][split]}
    files = [{"split": split, "path": name} for split, name in there.items()]
    data = DatasetCardData(
        pretty_name="Judgments for tuning a judge",
        annotations_creators=["machine-generated"],
        tags=["synthetic", "llm-as-a-judge", "reward-model", "flex-judge", "trl", "sft"],
        configs=[{"config_name": "default", "data_files": files, "description": f"rows {summary['digest']}"}],
    )
    note = "# license: yours to choose, under the terms of the rows and of the teacher; see the end of this card\n"
    return f"---\n{note}{data.to_yaml()}\n---\n"


def _opening(summary: Summary) -> Iterator[str]:
    made = {split: sum(kinds.values()) for split, kinds in summary["samples"].items()}
    yield (
        f"{made['train']:,} samples to train on and {made['held_out']:,} held out: judgments of one answer, of two, or "
        "of more, reasoned and then scored, in the prompt and completion of a Flex-Judge (arXiv 2505.18601). "
        f"Made from `{_line(summary['source'])}`; the teacher is `{_line(summary['teacher'])}`"
        + (", a program: its judgments are synthetic." if summary["synthetic"] else ", a model; no human has judged.")
    )


def _warnings(summary: Summary) -> Iterator[str]:
    found = [f"{number:,} fewer than wanted ({what})" for what, number in summary["missing"].items()]
    if found:
        yield "**There are not as many samples as were asked for:** " + "; ".join(found) + "."


def _loading() -> Iterator[str]:
    yield "## Loading"
    yield (
        '```python\nfrom datasets import load_dataset\n\ndata = load_dataset("PATH_OF_THIS_FOLDER", split="train")\n```'
    )
    yield "TRL's SFTTrainer takes it as it is, and trains on the completion only."


def _flow(summary: Summary) -> Table:
    yield "rows read", summary["rows"], ""
    yield "rows that are a question, its answers and their scores", summary["judged_rows"], _sum(summary["bad_rows"])
    yield "judgments of the teacher that can be used", summary["judgments"], _sum(summary["bad_judgments"])
    for step in summary["steps"]:
        yield step["step"], step["kept"], _sum(step["dropped"])
    for kind, number in summary["candidates"].items():
        yield f"- fit to be a {kind}", number, ""
    for split, kinds in summary["samples"].items():
        for kind, number in kinds.items():
            yield f"- {kind} samples, {split.replace('_', ' ')}", number, ""


def _dropped(summary: Summary) -> Iterator[str]:
    rows = [(f"row: {why}", n) for why, n in summary["bad_rows"].items()]
    rows += [(f"judgment: {why}", n) for why, n in summary["bad_judgments"].items()]
    rows += [(f"{step['step']}: {why}", n) for step in summary["steps"] for why, n in step["dropped"].items()]
    rows += [(f"not fit as {why}", n) for why, n in summary["unfit"].items()]
    yield _table(("reason", "count"), rows, left=1) if rows else "Nothing."
    yield "`dropped.jsonl` lists them with their rows, but for the unfit, which may be samples of another kind."


def _samples(summary: Summary) -> Iterator[str]:
    lengths = [
        (f"{kind}, {split.replace('_', ' ')}", *(found[name] for name in QUANTILES))
        for split, kinds in summary["tokens"].items()
        for kind, found in kinds.items()
    ]
    if not lengths:
        yield "There is no sample."
        return
    yield _table(("tokens of the reasoning", *QUANTILES), lengths, left=1)
    yield f"Counted by the tokenizer of `{_line(summary['tokenizer'])}`."
    shares = [
        (f"{title}: {name}, {split.replace('_', ' ')}", number, percent(number / sum(found.values())))
        for title, key in (("winner of a pair", "winners"), ("winner of a batch", "batch_winners"), ("scale", "scales"))
        for split, found in summary[key].items()
        for name, number in sorted(found.items())
    ]
    yield _table(("", "count", "share"), shares, left=1)
    scores = [
        (f"{scale}, {split.replace('_', ' ')}", ", ".join(f"{score}: {n}" for score, n in tally.items()))
        for split, scales in summary["single_scores"].items()
        for scale, tally in scales.items()
    ]
    if scores:
        yield _table(("scores of singles", "score: count"), scores, left=2)


def _settings(summary: Summary) -> Table:
    yield "source", f"`{_line(summary['source'])}`"
    yield "teacher", f"`{_line(summary['teacher'])}`"
    if not summary["synthetic"]:
        yield "judgments of a row", summary["samples_per_row"]
        yield "judging", f"`{_line(summary['judging'])}`"
    for scale, name in summary["rubrics"].items():
        yield f"rubric on {scale}", f"`{_line(name)}`"
    for name, value in summary["curation"].items():
        yield name.replace("_", " "), _line(str(value))


def _method(summary: Summary) -> Iterator[str]:
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


def _columns() -> str:
    return "\n".join(
        (
            "- `prompt`, `completion`: messages. The user's turn is what the judge's renderer shows.",
            "- `id`, `row`: the sample; the row of the source, from 1. `kind`: `single`, `pair` or `batch`.",
            "- `question`, `responses`: what is judged. `scores`, `reference_scores`: on `scale`.",
            "- `rubric`, `scale`: a name that `flex_judge.judges.rubrics.load_rubric` takes, and its scale.",
            "- `reasoning_tokens`, `teacher`: length of the reasoning, and whose it is.",
        )
    )


def _licence(summary: Summary) -> str:
    if summary["synthetic"]:
        return "Questions, scores and reasoning are made by programs; the answers are under the terms of their policy."
    return (
        "This data set is made from its source and is under the source's terms. JudgeLM-100K is CC BY-NC 4.0 (for "
        "non-commercial use): if the rows are from there, so is this data set. The teacher's terms apply too."
    )


def _limits(summary: Summary) -> str:
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


def _sum(counts: Mapping[str, int]) -> int:
    return sum(counts.values())


def _table(head: Sequence[str], rows: Table, left: int) -> str:
    """A table whose first `left` columns are words; the others are numbers, which stand to the right."""
    lines: list[Sequence[object]] = [head, ["---" if i < left else "---:" for i in range(len(head))], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")


def _line(text: str) -> str:
    """A text of somebody else's, in one line."""
    return " ".join(text.split()).replace("`", "'")
