"""Terminal output of `flex-judge judge`: one judgment, or the summary of a file of them."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from flex_judge.alignment.reporting.model import Cell, Table
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.commands.judge.output import JudgmentFile, open_judgment_file
from flex_judge.experiments.commands.judge.run import JudgeableRow, JudgeResult, LoadedRow, check_judge, judge_rows
from flex_judge.experiments.common.console import build_progress, redirect_libraries
from flex_judge.experiments.common.reporting.terminal import escape_control_characters, open_console, print_table
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import read_comparisons
from flex_judge.judges.judgments import Judgment, Verdict
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Modality
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Comparison, Content, Message, content_to_text, split_content

MAX_FAILED_ROWS = 10
"""Rows that are named in the summary; where there are more, the log names all."""
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
        options: `file`, or `prompt`, `response` and media; `json` and `config`, as the command line gave them.

    Returns:
        The exit status.

    Raises:
        UsageError: nothing can be judged; nothing was started or written then, but by a judge that does not load.
    """
    _check_options(config, options)
    if options.file is not None:
        rows: Sequence[JudgeableRow] = read_comparisons(Path(options.file), config.rubric)
    else:
        comparison = _build_comparison(config, options)
        rows = [LoadedRow(comparison)]
    check_judge(config)
    with ExitStack() as stack:
        output = (
            stack.enter_context(open_judgment_file(Path(config.out), {row.id for row in rows})) if config.out else None
        )
        log = output.log_path if output else Path(stack.enter_context(TemporaryDirectory())) / "engine.log"
        stack.callback(_remove_if_empty, log)
        console = stack.enter_context(redirect_libraries(log))
        progress = stack.enter_context(build_progress(console))
        result = judge_rows(config, rows, output, progress)
    if options.file is None and result.lost:
        raise UsageError(*result.lost.values())
    if options.json or (options.file is not None and not config.out):
        for judgment in result.judgments:
            print(json.dumps(judgment.to_json()))
    elif options.file is None:
        print_judgment(comparison, result.judgments[0])
    if options.file is not None:
        _print_summary(result, output)
    return int(result.failures.total() > config.max_failures)


def _check_options(config: JudgeRun, options: argparse.Namespace) -> None:
    """Refuse what would be ignored, or written over."""
    media = any(getattr(options, str(m)) for m in Modality)
    if options.file is not None and (options.prompt is not None or options.response or media):
        raise UsageError("judge takes either a FILE of comparisons, or --prompt, --response and media, not both")
    if options.file is None and options.prompt is None:
        raise UsageError("judge takes either a FILE of comparisons, or --prompt with one --response or more")
    if options.file is None and not options.response:
        raise UsageError("--prompt needs at least one --response")
    read = {"FILE": options.file, "--config": options.config, "--ledger": config.ledger, "--replay": config.replay}
    for name, path in read.items():
        if config.out and path and Path(path).resolve() == Path(config.out).resolve():
            raise UsageError(f"--out {config.out}: is also the {name}; choose another")


def _build_comparison(config: JudgeRun, options: argparse.Namespace) -> Comparison:
    load_rubric(config.rubric).check_response_count(len(options.response))
    media = [make_media(modality, value) for modality in Modality for value in getattr(options, str(modality))]
    question = parse_content(options.prompt)
    content = (*media, *split_content(question)) if media else question
    responses = tuple(parse_content(response) for response in options.response)
    return Comparison("1", (Message("user", content),), responses, config.rubric)


def _remove_if_empty(log: Path) -> None:
    if log.exists() and not log.stat().st_size:
        log.unlink()


def parse_content(argument: str) -> Content:
    """A prompt or response from the command line: text, or what is in the file that `@FILE` names.

    A text that begins with `@` itself is given with two of them.

    Raises:
        UsageError: the file cannot be read.
    """
    if not argument.startswith("@"):
        return argument
    if argument.startswith("@@"):
        return argument[1:]
    path = Path(argument[1:])
    if modality := SUFFIXES.get(path.suffix.lower()):
        return (make_media(modality, path),)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as e:
        hint = f"; for a text that begins with @, write @{argument:.20}" if isinstance(e, FileNotFoundError) else ""
        raise UsageError(f"{path}: cannot be read: {e.strerror}{hint}") from e
    except UnicodeDecodeError as e:
        raise UsageError(f"{path}: is no text in UTF-8, and its ending is none of {', '.join(SUFFIXES)}") from e


def print_judgment(comparison: Comparison, judgment: Judgment) -> None:
    """Print one judgment: scores, verdict, and the reasoning of each vote."""
    from rich.text import Text

    rows: list[tuple[Cell, ...]] = []
    for i, response in enumerate(comparison.responses):
        mark = "→ " if judgment.preferred == i else ""
        scores = [_format_score(values, i) for values in (judgment.scores, judgment.expected_scores, judgment.spread)]
        rows.append((f"{mark}{i + 1}", _shorten_content(response), *scores))
    columns = ("", "response", "score", "expected", "spread")
    print_table(Table(columns, rows, f"{judgment.model}, rubric {comparison.rubric}", text_columns=2))
    console = open_console()
    console.print(Text(_describe_outcome(comparison, judgment)))
    for number, vote in enumerate(judgment.votes, 1):
        console.print(Text.assemble((f"\nVote {number}", "bold"), f": {_describe_vote(vote)}"))
        console.print(Text(escape_control_characters(vote.reasoning) or "(no reasoning)", style="dim"))


def _describe_vote(vote: Verdict) -> str:
    """What a vote came to, and how, in one line."""
    if vote.scores is None:
        said = f"{vote.status}: {vote.detail}"
    else:
        said = vote.choice or f"scores {', '.join(f'{s:g}' for s in vote.scores)}"
    if vote.order != tuple(sorted(vote.order)):
        said += f", read as {', '.join(str(i + 1) for i in vote.order)}"
    if vote.num_waits:
        said += f", thinking put off its end {format_count(vote.num_waits, 'time')}"
    if vote.forced_answer:
        said += f", answer forced ({vote.forced_answer})"
    return escape_control_characters(said)


def _print_summary(result: JudgeResult, output: JudgmentFile | None) -> None:
    """What became of a run, to standard error."""
    lines = format_summary_lines(result)
    if len(result.lost) > MAX_FAILED_ROWS and output:
        with output.log_path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.writelines(f"not judged: {why}\n" for why in result.lost.values())
        lines.append(f"all that were not judged: {output.log_path}")
    if output:
        lines.append(f"judgments: {output.path}")
    console = open_console(stderr=True)
    for line in lines:
        console.print(escape_control_characters(line), markup=False, soft_wrap=True)


def format_summary_lines(result: JudgeResult) -> list[str]:
    """What a run came to, in words."""
    scored = sum(j.scores is not None for j in result.judgments)
    lines = [f"{scored} of {format_count(len(result.judgments) + len(result.lost), 'comparison')} scored"]
    if result.failures:
        lines[0] += ": " + ", ".join(f"{n} {why}" for why, n in sorted(result.failures.items()))
    forced_answer = sum(v.forced_answer is not None for j in result.judgments for v in j.votes)
    votes = sum(len(j.votes) for j in result.judgments)
    if votes:
        unscored = Counter(str(v.status) for j in result.judgments for v in j.votes if v.scores is None)
        without = "".join(f", {n} {why}" for why, n in sorted(unscored.items()))
        lines.append(f"{format_count(votes, 'vote')}, of which {forced_answer} had the answer forced{without}")
    disagreed = [j.disagreement for j in result.judgments if j.disagreement is not None]
    if disagreed:
        share = sum(disagreed) / len(disagreed)
        lines.append(f"the order of the responses changed the preference in {100 * share:.1f} % of votes in all orders")
    if result.kept:
        lines.append(f"kept from an earlier run: {format_count(result.kept, 'judgment')}")
    if result.hits is not None and result.requests:
        lines.append(f"from the ledger: {result.hits} of {format_count(result.requests, 'request')} to the engine")
    lines += [f"not judged: {why}" for why in list(result.lost.values())[:MAX_FAILED_ROWS]]
    if len(result.lost) > MAX_FAILED_ROWS:
        lines.append(f"and {len(result.lost) - MAX_FAILED_ROWS} more that were not judged")
    return lines


def _describe_outcome(comparison: Comparison, judgment: Judgment) -> str:
    if judgment.scores is None:
        return escape_control_characters(f"No score: {judgment.status} ({judgment.votes[0].detail})")
    if len(comparison.responses) == 1:
        return f"Score {judgment.scores[0]:g}"
    if judgment.choice:
        return f"Verdict [[{judgment.choice}]]"
    return "A tie" if judgment.preferred is None else f"Response {judgment.preferred + 1} is better"


def _format_score(values: tuple[float, ...] | None, i: int) -> str:
    return "-" if values is None else f"{values[i]:.2f}".rstrip("0").rstrip(".")


def _shorten_content(content: Content, most: int = 200) -> str:
    text = escape_control_characters(" ".join(content_to_text(split_content(content)).split()))
    return text if len(text) <= most else text[: most - 1] + "…"
