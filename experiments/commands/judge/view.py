"""Command and terminal output of `flex-judge judge`: one judgment, or the summary of a file."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flex_judge.alignment.data.hub import HUB
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.reporting.model import Cell, Table, name_option
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.commands.judge.output import JudgmentFile, open_judgment_file, record_run
from flex_judge.experiments.commands.judge.run import JudgeableRow, JudgeResult, LoadedRow, check_judge, judge_rows
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.reporting.terminal import escape_control_characters, open_console, print_table
from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.experiments.common.stop_state import RESUME
from flex_judge.experiments.common.stopping import describe_stop
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.files import (
    ComparisonFileRow,
    InvalidRow,
    is_comparison_column,
    parse_comparisons,
    read_comparisons,
)
from flex_judge.judges.io.json_values import dump_json
from flex_judge.judges.judgments import Judgment, Verdict
from flex_judge.judges.media.opening import make_media
from flex_judge.judges.media.types import Modality
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import Comparison, Content, Message, Response, content_to_text, split_content
from flex_judge.judges.validation.text_files import get_format_suffix, read_text

NOT_SAVED = "judgments are not saved without --out"
"""What a stop of a run without an output file does, as the acknowledgement of a signal says it."""
MAX_FAILED_ROWS = 10
"""Maximum number of failed rows in the summary; if there are more, the log names all of them."""
SUFFIXES: Mapping[str, Modality] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"), Modality.IMAGE),
    **dict.fromkeys((".mp4", ".mkv", ".webm", ".mov", ".avi"), Modality.VIDEO),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".m4a"), Modality.AUDIO),
}
"""Media type of a file given as `@FILE`, by its ending; other files are text."""


def main(config: JudgeRun, options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        config: Settings of the run.
        options: Parsed flags that are not settings: `file`, or `prompt`, `response` and media; `json` and `config`.

    Returns:
        The exit status.

    Raises:
        UsageError: Bad input. Nothing was written, unless the judge failed while it was loaded.
    """
    _check_options(config, options)
    if options.file is not None:
        rows: Sequence[JudgeableRow] = read_comparison_source(config, options.file)
    else:
        comparison = _build_comparison(config, options)
        rows = [LoadedRow(comparison)]
    check_judge(config)
    with ExitStack() as stack:
        output = None
        if config.out:
            num_unreadable = sum(isinstance(row, InvalidRow) for row in rows)
            ids = {row.id for row in rows}
            output = stack.enter_context(open_judgment_file(Path(config.out), ids, num_unreadable))
            stack.enter_context(record_run(output.path, _describe_run(config, options.file), len(rows)))
        # Library output goes to a log next to the output file, or nowhere, but never between the judgments.
        log = output.log_path if output else Path(stack.enter_context(TemporaryDirectory())) / "engine.log"
        stack.callback(_remove_if_empty, log)
        stack.enter_context(describe_stop(RESUME if output else NOT_SAVED))
        console = stack.enter_context(redirect_libraries(log))
        progress = stack.enter_context(Progress(console))
        result = judge_rows(config, rows, output, progress)
    # A single comparison that cannot be judged is bad input; in a file, it is one failed row among others.
    if options.file is None and result.errors:
        raise UsageError(*result.errors.values())
    if options.json or (options.file is not None and not config.out):
        for row in result.rows:
            print(dump_json(row, ascii_only=True))
    elif options.file is None:
        print_judgment(comparison, result.judgments[0])
    if options.file is not None:
        _print_summary(result, output)
    return int(result.failures.total() > config.max_failures)


def read_comparison_source(config: JudgeRun, file: str) -> list[ComparisonFileRow | InvalidRow]:
    """Read the comparisons of a file, a folder or a data set, see `open_source`."""
    path, columns = Path(file), config.columns
    if path.is_file() or (not file.startswith(HUB) and not path.is_dir() and get_format_suffix(path)):
        # Read once and in order, so that it may also be a pipe.
        return read_comparisons(path, config.rubric, config.view, columns)
    source = open_source(file)
    table = source.read_range(0, len(source), columns.wrap_needs(is_comparison_column))
    return parse_comparisons(table, source.name, source.folder, rubric=config.rubric, view=config.view, columns=columns)


def _describe_run(config: JudgeRun, file: str | None) -> dict[str, Any]:
    """Describe the settings of a run for its page."""
    return {
        "input": file or "one comparison from flags",
        "judge": config.judge.engine.model,
        "adapter": config.judge.engine.adapter,
        "engine": config.judge.engine.engine,
        "rubric": config.rubric,
        "replay": config.replay,
        "judging": repr(config.judge.settings),
    }


def _check_options(config: JudgeRun, options: argparse.Namespace) -> None:
    """Reject options that would be ignored, and an output file that would overwrite an input."""
    media = any(getattr(options, str(m)) for m in Modality)
    if options.file is not None and (options.prompt is not None or options.response or media):
        raise UsageError("judge takes either a FILE of comparisons, or --prompt, --response and media flags, not both")
    if options.file is None and options.prompt is None:
        raise UsageError("judge takes either a FILE of comparisons, or --prompt with at least one --response")
    if options.file is None and config.column:
        raise UsageError("--column refers to a column of FILE, but there is no FILE; name one or remove it")
    if options.file is None and not options.response:
        raise UsageError("--prompt needs at least one --response")
    inputs = {"FILE": options.file, "--config": options.config, "--ledger": config.ledger, "--replay": config.replay}
    for name, path in inputs.items():
        if config.out and path and Path(path).resolve() == Path(config.out).resolve():
            raise UsageError(f"--out {config.out}: is also the {name}; choose another file")


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
    """Parse a prompt or response from the command line: text, or `@FILE` for the content of a text or media file.

    `@@` at the start stands for a literal `@`.

    Raises:
        UsageError: The file cannot be read.
    """
    if not argument.startswith("@"):
        return argument
    if argument.startswith("@@"):
        return argument[1:]
    path = Path(argument[1:])
    if modality := SUFFIXES.get(path.suffix.lower()):
        return (make_media(modality, path),)
    try:
        return read_text(path)
    except UsageError as e:
        if isinstance(e.__cause__, FileNotFoundError):
            raise UsageError(f"{e}; for a text that starts with @, write @{argument:.20}") from e
        if isinstance(e.__cause__, UnicodeDecodeError):
            raise UsageError(f"{path}: not UTF-8 text; for media, use one of the endings {', '.join(SUFFIXES)}") from e
        raise


def print_judgment(comparison: Comparison, judgment: Judgment) -> None:
    """Print one judgment: scores, verdict and the reasoning of each vote."""
    from rich.text import Text

    rows: list[tuple[Cell, ...]] = []
    for i, response in enumerate(comparison.responses):
        mark = "→ " if judgment.preferred == i else ""
        scores = [_format_score(values, i) for values in (judgment.scores, judgment.expected_scores, judgment.spread)]
        rows.append((f"{mark}{name_option(i)}", _shorten_content(response), *scores))
    columns = ("", "response", "score", "expected", "spread")
    print_table(Table(columns, rows, f"{judgment.model}, rubric {comparison.rubric}", text_columns=2))
    console = open_console()
    console.print(Text(_describe_outcome(comparison, judgment)))
    for number, vote in enumerate(judgment.votes, 1):
        console.print(Text.assemble((f"\nVote {number}", "bold"), f": {_describe_vote(vote)}"))
        console.print(Text(escape_control_characters(vote.reasoning) or "(no reasoning)", style="dim"))


def _describe_vote(vote: Verdict) -> str:
    """Describe the result of a vote in one line."""
    if vote.scores is None:
        text = f"{vote.status}: {vote.detail}"
    else:
        text = vote.choice or f"scores {', '.join(f'{s:g}' for s in vote.scores)}"
    if len(vote.order) > 1:
        # The reasoning names the responses by their place in the prompt.
        text += "".join(f", Assistant {place} is {name_option(i)}" for place, i in enumerate(vote.order, 1))
    if vote.num_waits:
        text += f", reasoning extended with Wait {format_count(vote.num_waits, 'time')}"
    if vote.forced_answer:
        text += f", constrained fallback answer ({vote.forced_answer})"
    return escape_control_characters(text)


def _print_summary(result: JudgeResult, output: JudgmentFile | None) -> None:
    """Print the summary of a run to standard error."""
    lines = format_summary_lines(result)
    if len(result.errors) > MAX_FAILED_ROWS and output:
        with output.log_path.open("a", encoding="utf-8", errors="backslashreplace") as log:
            log.writelines(f"not judged: {error}\n" for error in result.errors.values())
        lines.append(f"all rows that were not judged: {output.log_path}")
    if output:
        lines += [f"judgments: {output.path}", f"page: {output.page_path}"]
    console = open_console(stderr=True)
    for line in lines:
        console.print(escape_control_characters(line), markup=False, soft_wrap=True)


def format_summary_lines(result: JudgeResult) -> list[str]:
    """Format the summary of a run, one fact per line."""
    scored = sum(j.scores is not None for j in result.judgments)
    lines = [f"{scored} of {format_count(len(result.judgments) + len(result.missing), 'comparison')} scored"]
    if result.failures:
        lines[0] += ": " + ", ".join(f"{n} {reason}" for reason, n in sorted(result.failures.items()))
    forced_answer = sum(v.forced_answer is not None for j in result.judgments for v in j.votes)
    votes = sum(len(j.votes) for j in result.judgments)
    if votes:
        unscored = Counter(str(v.status) for j in result.judgments for v in j.votes if v.scores is None)
        reasons = "".join(f", {n} {status}" for status, n in sorted(unscored.items()))
        lines.append(f"{format_count(votes, 'vote')}: {forced_answer} with a constrained fallback answer{reasons}")
    disagreements = [j.disagreement for j in result.judgments if j.disagreement is not None]
    if disagreements:
        share = sum(disagreements) / len(disagreements)
        lines.append(
            f"the order of the responses changed the preference in {100 * share:.1f} % of rounds in all orders"
        )
    if result.num_stored:
        lines.append(f"reused from earlier runs: {format_count(result.num_stored, 'judgment')}")
    if result.hits is not None and result.requests:
        lines.append(f"from the ledger: {result.hits} of {format_count(result.requests, 'engine request')}")
    lines += [f"not judged: {error}" for error in list(result.errors.values())[:MAX_FAILED_ROWS]]
    if len(result.errors) > MAX_FAILED_ROWS:
        lines.append(f"and {len(result.errors) - MAX_FAILED_ROWS} more rows were not judged")
    return lines


def _describe_outcome(comparison: Comparison, judgment: Judgment) -> str:
    if judgment.scores is None:
        return escape_control_characters(f"No score: {judgment.status} ({judgment.votes[0].detail}).")
    if len(comparison.responses) == 1:
        return f"Score {judgment.scores[0]:g}."
    if judgment.choice:
        return f"Verdict [[{judgment.choice}]]."
    return "A tie." if judgment.preferred is None else f"Response {name_option(judgment.preferred)} is better."


def _format_score(values: tuple[float, ...] | None, i: int) -> str:
    return "-" if values is None else f"{values[i]:.2f}".rstrip("0").rstrip(".")


def _shorten_content(content: Response, max_chars: int = 200) -> str:
    text = escape_control_characters(" ".join(content_to_text(split_content(content)).split()))
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
