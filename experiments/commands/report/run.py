"""Report page of a demo: one HTML file that needs no network and no script.

This module reads and computes; `templates/report.html` is the layout.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.data.rows import read_response
from flex_judge.alignment.preferences.pairs import DROP_REASONS
from flex_judge.experiments.common.reporting import wording
from flex_judge.experiments.common.reporting.html import write_template
from flex_judge.experiments.common.reporting.runs import PAGE, RunRecord, build_failure_list
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object, read_rows
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.types import content_to_text

MAX_PROMPTS = 12  # number of prompts with all their candidates on the page
_EPS = 1e-6  # tolerance for rounding errors in divisions of scores
# Required keys of each file.
_SUMMARY = ("policy", "judge", "engine", "prompts", "samples_per_prompt")
_BEST_OF_N = ("id", "prompt", "responses", "scores", "best")
_PREFERENCES = ("score_chosen", "score_rejected", "margin", "provenance")
_JUDGMENTS = ("id", "status", "votes")

Row = dict[str, Any]


@dataclass(frozen=True)
class ReportCandidate:
    """One sample of one prompt, with its judgment."""

    index: int
    text: str
    score: float | None
    expected: float | None
    right: bool | None
    status: str
    detail: str
    """Why the candidate is unscored or has a constrained fallback answer; empty for an ordinary judgment."""
    reasonings: tuple[str, ...]
    badges: tuple[str, ...]
    """Subset of `best`, `chosen`, `rejected`."""


@dataclass(frozen=True)
class ReportPrompt:
    """One prompt with its candidates and preference pairs."""

    id: str
    messages: Sequence[Mapping[str, str]]
    candidates: tuple[ReportCandidate, ...]
    best: int | None
    tied: int
    pairs: tuple[Row, ...]


@dataclass(frozen=True)
class HistogramBar:
    """One bin of a histogram, with its counts of right, wrong and unlabelled answers."""

    label: str
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class ScoreHistogram:
    """Histogram of scores, with its axes."""

    bars: tuple[HistogramBar, ...]
    ticks: tuple[tuple[float, str], ...]
    """Positions on the score axis, in bars from its left end, with their labels."""
    guides: tuple[int, ...]
    """Counts with a horizontal line; the last is the top of the chart."""
    total: int


def write_demo_page(record: RunRecord) -> Path:
    """Write the page of a demo, finished or not, and return its path."""
    from flex_judge.experiments.commands.report.unfinished import write_unfinished_page

    return write_demo_report(record.folder) if record.summary is not None else write_unfinished_page(record, "Demo")


def write_demo_report(run: Path) -> Path:
    """Write `report.html` into the folder of a demo and return its path.

    Raises:
        UsageError: A file of the run is missing or invalid; the message names the file and the line.
    """
    return write_template(run / PAGE, "report.html", **build_view(run))


def build_view(run: Path) -> Row:
    """Compute the variables of the template from the files of the run."""
    if not (run / "summary.json").is_file():
        raise UsageError(f"{run}: holds no finished run; create one with: flex-judge demo --out {run}")
    summary = read_object(run / "summary.json", _SUMMARY)
    rows = list(read_rows(run / "best_of_n.jsonl", _BEST_OF_N))
    pairs = list(read_rows(run / "preferences.jsonl", _PREFERENCES))
    judgments = list(read_rows(run / "judgments.jsonl", _JUDGMENTS))
    prompts = join_prompts(rows, pairs, judgments)
    candidates = [c for p in prompts for c in p.candidates]
    all_scores = [score for c in candidates for score in (c.score, c.expected) if score is not None]
    low, high, step = compute_score_axis(judgments, all_scores)
    written = [(c.score, c.right) for c in candidates if c.score is not None]
    expected = [(c.expected, c.right) for c in candidates if c.expected is not None]
    return {
        "s": summary,
        "title": "Flex-Judge report",
        "verdict": wording.describe_verdict(summary),
        "accuracies": wording.list_accuracies(summary),
        "band": wording.compute_noise_band(summary),
        "written": build_histogram(written, low, high, step),
        "expected": build_histogram(expected, low, high, None),
        "known": any(c.right is not None for c in candidates),
        "total": len(candidates),
        "unscored": Counter(c.status for c in candidates if c.score is None).most_common(),
        "pair_count": summary.get("pairs", len(pairs)),
        "agreement": count_pair_agreement(prompts),
        "seconds": [(name, wording.format_duration(t)) for name, t in (summary.get("seconds") or {}).items()],
        "tokens": wording.list_token_rows(summary),
        "status_words": wording.STATUS_WORDS,
        "forced_words": wording.FORCED_ANSWER_REASONS,
        "dropped_words": DROP_REASONS,
        "prompts": select_prompts(prompts),
        "prompt_count": len(prompts),
        "failures": build_failure_list(run, judgments),
    }


def join_prompts(rows: Iterable[Row], pairs: Iterable[Row], judgments: Iterable[Row]) -> list[ReportPrompt]:
    """Join best-of-N rows, preference pairs and judgments by id.

    Raises:
        UsageError: The lists of a row differ in length.
    """
    judgments_by_id = {str(j["id"]): j for j in judgments}
    pairs_by_prompt: dict[str, list[Row]] = {}
    for pair in pairs:
        pairs_by_prompt.setdefault(str(pair["provenance"].get("id")), []).append(pair)
    prompts = []
    for row in rows:
        row_id, size = str(row["id"]), len(row["responses"])
        columns = {name: row.get(name) or [None] * size for name in ("scores", "expected_scores", "right")}
        for name, column in columns.items():
            if len(column) != size:
                raise UsageError(f"best_of_n.jsonl: {row_id!r} has {size} responses but {len(column)} {name}")
        row_pairs = tuple(pairs_by_prompt.get(row_id, ()))
        candidates = []
        for i, response in enumerate(row["responses"]):
            text = content_to_text(read_response(response))
            values = {name: column[i] for name, column in columns.items()}
            badges = _list_badges(i, row["best"], row_pairs)
            candidates.append(_build_candidate(i, text, values, judgments_by_id.get(f"{row_id}/{i}"), badges))
        tied = row.get("tied") or 0
        tools = [{"role": "tools", "content": json.dumps(row["tools"])}] if row.get("tools") else []
        messages = [*tools, *map(describe_message, row["prompt"])]
        prompts.append(ReportPrompt(row_id, messages, tuple(candidates), row["best"], tied, row_pairs))
    return prompts


def describe_message(message: Row) -> Row:
    """Reduce a message of a results file to role and text, with its tool calls."""
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part["text"] if part.get("type") == "text" else f"[{part['type']}]" for part in content)
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [f"{function['name']}({function['arguments']})" for function in functions]
    role = " ".join(filter(None, (message["role"], message.get("name"))))
    return {"role": role, "content": "\n".join(filter(None, (message.get("reasoning_content"), content, *calls)))}


def _list_badges(index: int, best: int | None, pairs: Iterable[Row]) -> tuple[str, ...]:
    """List the distinct roles of a candidate: `best` first, then its roles in the pairs."""
    badges = ["best"] if best == index else []
    for pair in pairs:
        badges += [role for role in ("chosen", "rejected") if pair["provenance"].get(f"{role}_index") == index]
    return tuple(dict.fromkeys(badges))


def _build_candidate(
    index: int, text: str, values: Row, judgment: Row | None, badges: tuple[str, ...]
) -> ReportCandidate:
    judgment = judgment or {"status": "not_judged", "votes": []}
    votes, status = judgment["votes"], judgment["status"]
    score = values["scores"]
    details = []
    if score is None:
        causes = "; ".join(dict.fromkeys(v["detail"] for v in votes if v.get("detail")))
        details.append(f"Unscored: {wording.STATUS_WORDS.get(status, status)}{f' ({causes})' if causes else ''}.")
    for reason, times in Counter(v["forced_answer"] for v in votes if v.get("forced_answer")).items():
        subject = "Constrained fallback answer"
        if len(votes) > 1:
            subject += f" in {times} of {len(votes)} votes"
        details.append(f"{subject}: {wording.FORCED_ANSWER_REASONS.get(reason, reason)}.")
    # Each vote has its own reasoning; the reasoning of a judgment with several votes repeats one of them.
    reasonings = [v.get("reasoning") for v in votes] if len(votes) > 1 else [judgment.get("reasoning")]
    return ReportCandidate(
        index=index,
        text=text,
        score=score,
        expected=values["expected_scores"],
        right=values["right"],
        status=status,
        detail=" ".join(details),
        reasonings=tuple(reasoning for reasoning in reasonings if reasoning),
        badges=badges,
    )


def select_prompts(prompts: Sequence[ReportPrompt], limit: int = MAX_PROMPTS) -> list[ReportPrompt]:
    """Select the first `limit` prompts, with a preference for prompts with a pair; keep the order of the file."""
    order = sorted(range(len(prompts)), key=lambda i: (not prompts[i].pairs, i))
    return [prompts[i] for i in sorted(order[:limit])]


def count_pair_agreement(prompts: Iterable[ReportPrompt]) -> tuple[int, int, int] | None:
    """Count pairs that prefer a right answer to a wrong one, the reverse, and two answers with the same label.

    Returns:
        The three counts; None without ground truth.
    """
    agree = reverse = same = 0
    for prompt in prompts:
        is_right = {candidate.index: candidate.right for candidate in prompt.candidates}
        for pair in prompt.pairs:
            chosen = is_right.get(pair["provenance"].get("chosen_index"))
            rejected = is_right.get(pair["provenance"].get("rejected_index"))
            if chosen is not None and rejected is not None:
                agree += chosen and not rejected
                reverse += rejected and not chosen
                same += chosen == rejected
    return (agree, reverse, same) if agree + reverse + same else None


def compute_score_axis(judgments: Iterable[Row], values: Sequence[float]) -> tuple[float, float, float]:
    """Compute the lowest score, the highest score and the step of the axis.

    This is the scale of the rubrics, extended to include all values; without a readable rubric, the range of values.
    """
    low, high, step = float(math.floor(min(values, default=1))), float(math.ceil(max(values, default=5))), 1.0
    for name in {str(j["provenance"]["rubric"]) for j in judgments if (j.get("provenance") or {}).get("rubric")}:
        try:
            scale = load_rubric(name).scale
        except UsageError:  # a rubric file that was moved since the run
            continue
        low, high, step = min(low, scale.low), max(high, scale.high), min(step, 10.0**-scale.decimals)
    return low, max(high, low + step), step


def build_histogram(
    values: Sequence[tuple[float, bool | None]], low: float, high: float, step: float | None
) -> ScoreHistogram:
    """Build a histogram of scores, each with the label of its answer.

    There is one bar per score if `step` is given, the axis has at most 41 scores, and every value is on a step;
    otherwise bars of equal width.
    """
    discrete = step is not None and (high - low) / step <= 41 and all(_is_whole((v - low) / step) for v, _ in values)
    # The smallest round width with at most 20 bars.
    wide = next((w for w in (0.1, 0.25, 0.5, 1.0, 2.5, 5.0) if (high - low) / w <= 20), (high - low) / 20)
    width = step if discrete and step is not None else wide
    size = round((high - low) / width) + 1 if discrete else math.ceil((high - low) / width - _EPS)
    counts = [[0, 0, 0] for _ in range(size)]
    for value, right in values:
        position = (value - low) / width
        i = round(position) if discrete else math.floor(position + _EPS)
        # The highest score is in the last bar, although it is the start of the next one.
        counts[min(i, size - 1)][2 if right is None else int(not right)] += 1
    starts = [low + i * width for i in range(size)]
    labels = [f"{s:g}" if discrete else f"{s:g} to {s + width:g}" for s in starts]
    # The smallest round distance with at most 10 intervals between ticks.
    units = (u for u in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if u >= width and (high - low) / u <= 10)
    unit = next(units, high - low)
    marks = [low + k * unit for k in range(math.floor((high - low) / unit + _EPS) + 1)]
    # Ticks are at the centre of a bar for one score, and at the edges of other bars.
    ticks = tuple(((m - low) / width + (0.5 if discrete else 0.0), f"{m:g}") for m in marks)
    top = max(1, *map(sum, counts))
    # The smallest round distance with at most 5 guides below the top.
    rise = next(r * 10**e for e in range(9) for r in (1, 2, 5) if top <= 5 * r * 10**e)
    guides = tuple(range(0, top + rise, rise))
    bars = tuple(HistogramBar(label, (c[0], c[1], c[2])) for label, c in zip(labels, counts, strict=True))
    return ScoreHistogram(bars, ticks, guides, len(values))


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < _EPS
