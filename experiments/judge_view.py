"""What `flex-judge judge` shows: one judgment for a person to read, or the figures of a file of them."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.console import libraries_to, progress_on
from experiments.judge import Given, Result, Row, judge_rows
from experiments.judge_config import JudgeRun
from judges import Comparison, Judgment, Message
from judges.errors import UsageError
from judges.files import read_comparisons
from judges.media import Modality, medium
from judges.types import Content, parts_of, text_of

SUFFIXES: Mapping[str, Modality] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), Modality.IMAGE),
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi"), Modality.VIDEO),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".m4a"), Modality.AUDIO),
}
"""What a file given as `@FILE` is, by its ending; any other is text."""


def main(config: JudgeRun, options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        config: the settings.
        options: `file`, or `prompt`, `response`, media and `json`, as the command line gave them.

    Returns:
        The exit status.
    """
    if (options.file is None) == (options.prompt is None):
        raise UsageError("judge takes either a FILE of comparisons, or --prompt with one --response or more")
    if options.prompt is None:
        rows: Sequence[Row] = read_comparisons(Path(options.file), config.rubric)
    else:
        if not options.response:
            raise UsageError("--prompt needs at least one --response")
        comparison = _from_flags(config, options)
        rows = [Given("1", comparison)]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(f"{config.out}.log") if config.out else Path(folder) / "engine.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with libraries_to(log) as console, progress_on(console) as progress:
            result = judge_rows(config, rows, progress)
    if options.prompt is None:
        print_result(result, config.out)
    elif options.json or not result.judgments:
        print_result(result, None)
    else:
        print_judgment(comparison, result.judgments[0])
    return int(result.failures.total() > config.max_failures)


def _from_flags(config: JudgeRun, options: argparse.Namespace) -> Comparison:
    media = [
        medium(modality, value)
        for modality, name in ((m, str(m)) for m in Modality)
        for value in getattr(options, name)
    ]
    prompt = Message(
        "user", (*media, *parts_of(content_from(options.prompt))) if media else content_from(options.prompt)
    )
    return Comparison("1", (prompt,), tuple(map(content_from, options.response)), config.rubric)


def content_from(argument: str) -> Content:
    """A prompt or response from the command line: text, or what is in the file that `@FILE` names.

    Raises:
        UsageError: the file cannot be read.
    """
    if not argument.startswith("@"):
        return argument
    path = Path(argument[1:])
    if modality := SUFFIXES.get(path.suffix.lower()):
        return (medium(modality, path),)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: cannot be read as text: {e}") from e


def print_judgment(comparison: Comparison, judgment: Judgment) -> None:
    """One judgment for a person: scores, the outcome, and the judge's own words."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title=f"{escape(judgment.model)}, rubric {escape(comparison.rubric)}")
    for name in ("", "response"):
        table.add_column(name, overflow="fold")
    for name in ("score", "expected", "spread"):
        table.add_column(name, justify="right")
    for i, response in enumerate(comparison.responses):
        mark = "→ " if judgment.preferred == i else ""
        figures = [_figure(values, i) for values in (judgment.scores, judgment.expected_scores, judgment.spread)]
        table.add_row(f"{mark}{i + 1}", escape(_short(response)), *figures)
    console.print(table)
    console.print(escape(_outcome(comparison, judgment)))
    for number, vote in enumerate(judgment.votes, 1):
        order = (
            "" if vote.order == tuple(sorted(vote.order)) else f", read as {', '.join(str(i + 1) for i in vote.order)}"
        )
        forced = f", answer forced ({vote.forced})" if vote.forced else ""
        said = f"scores {', '.join(f'{s:g}' for s in vote.scores)}" if vote.scores else f"{vote.status}: {vote.detail}"
        console.print(f"\n[bold]Vote {number}[/bold]: {escape((vote.choice or said) + order + forced)}")
        console.print(escape(vote.reasoning or "(no reasoning)"), style="dim")


def print_result(result: Result, out: str | None) -> None:
    """The judgments as JSON lines where there is no file for them, and in any case what became of the run."""
    from rich.console import Console

    if out is None:
        for judgment in result.judgments:
            print(json.dumps(judgment.to_json()))
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in summary_lines(result, out):
        console.print(line, markup=False)


def summary_lines(result: Result, out: str | None) -> list[str]:
    """What a run came to, in words."""
    scored = sum(j.scores is not None for j in result.judgments)
    lines = [f"{scored} of {len(result.judgments) + len(result.lost)} comparisons have a score"]
    if result.failures:
        lines[0] += ": " + ", ".join(f"{n} {why}" for why, n in sorted(result.failures.items()))
    forced = sum(v.forced is not None for j in result.judgments for v in j.votes)
    votes = sum(len(j.votes) for j in result.judgments)
    if votes:
        lines.append(f"{votes} votes, of which {forced} had their answer forced")
    disagreed = [j.disagreement for j in result.judgments if j.disagreement is not None]
    if disagreed:
        share = sum(disagreed) / len(disagreed)
        lines.append(f"the order of the responses changed the preference in {100 * share:.1f} % of votes in all orders")
    if result.kept:
        lines.append(f"{result.kept} judgments were there from an earlier run")
    if result.hits is not None and result.requests:
        lines.append(f"{result.hits} of {result.requests} requests were answered from the ledger")
    for row, why in list(result.lost.items())[:10]:
        lines.append(f"not judged: {row}: {why}")
    if len(result.lost) > 10:
        lines.append(f"and {len(result.lost) - 10} more that were not judged")
    if out:
        lines.append(f"judgments: {out}")
    return lines


def _outcome(comparison: Comparison, judgment: Judgment) -> str:
    if judgment.scores is None:
        return f"No score: {judgment.status} ({judgment.votes[0].detail})"
    if len(comparison.responses) == 1:
        return f"Score {judgment.scores[0]:g}"
    if judgment.choice:
        return f"Verdict [[{judgment.choice}]]"
    return "A tie" if judgment.preferred is None else f"Response {judgment.preferred + 1} is better"


def _figure(values: tuple[float, ...] | None, i: int) -> str:
    return "-" if values is None else f"{values[i]:.2f}".rstrip("0").rstrip(".")


def _short(content: Content, most: int = 200) -> str:
    text = " ".join(text_of(parts_of(content)).split())
    return text if len(text) <= most else text[: most - 1] + "…"
