"""The report page of a run: one HTML file that needs no network and no script.

This module reads and computes; `templates/report.html` lays out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flex_judge.alignment.preferences.pairs import DROP_REASONS
from flex_judge.experiments.common.reporting import wording
from flex_judge.experiments.common.reporting.html import write_template
from flex_judge.judges.errors import UsageError
from flex_judge.judges.io.jsonl import read_object, read_rows
from flex_judge.judges.rubrics import load_rubric

MAX_PROMPTS = 12  # prompts shown in full
_EPS = 1e-6
_SUMMARY = ("policy", "judge", "engine", "prompts", "samples_per_prompt")
_BEST_OF_N = ("id", "prompt", "responses", "scores", "best")
_PREFERENCES = ("score_chosen", "score_rejected", "margin", "provenance")
_JUDGMENTS = ("id", "status", "votes")

Row = dict[str, Any]


@dataclass(frozen=True)
class ReportCandidate:
    """One sample of one prompt, with everything that is known of it."""

    index: int
    text: str
    score: float | None
    expected: float | None
    right: bool | None
    status: str
    detail: str
    """Why it is unscored or that it was forced, in words; empty for an ordinary judgment."""
    reasonings: tuple[str, ...]
    badges: tuple[str, ...]
    """Of `best`, `chosen`, `rejected`."""


@dataclass(frozen=True)
class ReportPrompt:
    id: str
    messages: Sequence[Mapping[str, str]]
    candidates: tuple[ReportCandidate, ...]
    best: int | None
    tied: int
    pairs: tuple[Row, ...]


@dataclass(frozen=True)
class HistogramBar:
    """One bin of a histogram. `counts` are right, wrong, unknown."""

    label: str
    counts: tuple[int, int, int]


@dataclass(frozen=True)
class ScoreHistogram:
    bars: tuple[HistogramBar, ...]
    ticks: tuple[tuple[float, str], ...]
    """Places on the axis, in bars from its left end, and what is written there."""
    guides: tuple[int, ...]
    """Counts at which to draw a line; the last is the top of the chart."""
    total: int


def write_run_page(run: Path) -> Path:
    """Write the page of a finished run of any command, and return its path.

    Raises:
        UsageError: the folder holds no finished run, or a broken one.
    """
    from flex_judge.experiments.commands.eval.page import write_benchmark_page as write_benchmark

    file = run / "summary.json"
    return write_benchmark(run) if file.is_file() and "benchmark" in read_object(file) else write_demo_report(run)


def write_demo_report(run: Path) -> Path:
    """Write `report.html` into the run folder and return its path.

    Raises:
        UsageError: a file of the run is missing or broken; the message names it, and the line.
    """
    return write_template(run / "report.html", "report.html", **build_view(run))


def build_view(run: Path) -> Row:
    """Everything the template shows, computed from the files of the run."""
    if not (run / "summary.json").is_file():
        raise UsageError(f"{run} holds no finished run; make one with: flex-judge demo --out {run}")
    summary = read_object(run / "summary.json", _SUMMARY)
    rows = list(read_rows(run / "best_of_n.jsonl", _BEST_OF_N))
    pairs = list(read_rows(run / "preferences.jsonl", _PREFERENCES))
    judgments = list(read_rows(run / "judgments.jsonl", _JUDGMENTS))
    prompts = join_prompts(rows, pairs, judgments)
    every = [c for p in prompts for c in p.candidates]
    low, high, step = compute_score_axis(judgments, [v for c in every for v in (c.score, c.expected) if v is not None])
    written = [(c.score, c.right) for c in every if c.score is not None]
    expected = [(c.expected, c.right) for c in every if c.expected is not None]
    return {
        "s": summary,
        "title": "Flex-Judge report",
        "verdict": wording.describe_verdict(summary),
        "accuracies": wording.list_accuracies(summary),
        "band": wording.compute_noise_band(summary),
        "written": build_histogram(written, low, high, step),
        "expected": build_histogram(expected, low, high, None),
        "known": any(c.right is not None for c in every),
        "total": len(every),
        "unscored": Counter(c.status for c in every if c.score is None).most_common(),
        "pair_count": summary.get("pairs", len(pairs)),
        "agreement": count_pair_agreement(prompts),
        "seconds": [(name, wording.format_duration(t)) for name, t in (summary.get("seconds") or {}).items()],
        "tokens": wording.list_token_rows(summary),
        "status_words": wording.STATUS_WORDS,
        "forced_words": wording.FORCED_ANSWER_REASONS,
        "dropped_words": DROP_REASONS,
        "prompts": select_prompts(prompts),
        "prompt_count": len(prompts),
    }


def join_prompts(rows: Iterable[Row], pairs: Iterable[Row], judgments: Iterable[Row]) -> list[ReportPrompt]:
    """Bring together by id what the files say of each candidate. Raises UsageError if lists differ in length."""
    by_id = {str(j["id"]): j for j in judgments}
    pairs_of: dict[str, list[Row]] = {}
    for pair in pairs:
        pairs_of.setdefault(str(pair["provenance"].get("id")), []).append(pair)
    prompts = []
    for row in rows:
        row_id, size = str(row["id"]), len(row["responses"])
        columns = {name: row.get(name) or [None] * size for name in ("scores", "expected_scores", "right")}
        for name, column in columns.items():
            if len(column) != size:
                raise UsageError(f"best_of_n.jsonl: {row_id!r} has {size} responses but {len(column)} {name}")
        own = tuple(pairs_of.get(row_id, ()))
        roles = [(p["provenance"].get(f"{role}_index"), role) for p in own for role in ("chosen", "rejected")]
        candidates = []
        for i, text in enumerate(row["responses"]):
            badges = dict.fromkeys(["best"] * (row["best"] == i) + [role for index, role in roles if index == i])
            values = {name: column[i] for name, column in columns.items()}
            candidates.append(_build_candidate(i, text, values, by_id.get(f"{row_id}/{i}"), tuple(badges)))
        prompts.append(ReportPrompt(row_id, row["prompt"], tuple(candidates), row["best"], row.get("tied") or 0, own))
    return prompts


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
        which = "The answer was forced" if len(votes) == 1 else f"{times} of {len(votes)} answers were forced"
        details.append(f"{which}: {wording.FORCED_ANSWER_REASONS.get(reason, reason)}.")
    # Each vote has thought for itself; the judgment's own reasoning is that of one of them.
    reasonings = [v.get("reasoning") for v in votes] if len(votes) > 1 else [judgment.get("reasoning")]
    said = tuple(r for r in reasonings if r)
    return ReportCandidate(
        index, text, score, values["expected_scores"], values["right"], status, " ".join(details), said, badges
    )


def select_prompts(prompts: Sequence[ReportPrompt], shown: int = MAX_PROMPTS) -> list[ReportPrompt]:
    """The first `shown` prompts in file order, those with a preference pair before the others."""
    order = sorted(range(len(prompts)), key=lambda i: (not prompts[i].pairs, i))
    return [prompts[i] for i in sorted(order[:shown])]


def count_pair_agreement(prompts: Iterable[ReportPrompt]) -> tuple[int, int, int] | None:
    """Pairs that prefer a right answer to a wrong one, the reverse, and both alike; None without ground truth."""
    agree = reverse = alike = 0
    for prompt in prompts:
        for pair in prompt.pairs:
            at = [pair["provenance"].get(f"{role}_index") for role in ("chosen", "rejected")]
            chosen, rejected = (next((c.right for c in prompt.candidates if c.index == i), None) for i in at)
            if chosen is not None and rejected is not None:
                agree += chosen and not rejected
                reverse += rejected and not chosen
                alike += chosen == rejected
    return (agree, reverse, alike) if agree + reverse + alike else None


def compute_score_axis(judgments: Iterable[Row], values: Sequence[float]) -> tuple[float, float, float]:
    """Lowest and highest score and their spacing: the rubrics' scale if it can be had, widened to hold the values."""
    low, high, step = float(math.floor(min(values, default=1))), float(math.ceil(max(values, default=5))), 1.0
    for name in {str(j["provenance"]["rubric"]) for j in judgments if (j.get("provenance") or {}).get("rubric")}:
        try:
            scale = load_rubric(name).scale
        except UsageError:  # a rubric of the user's own that has moved since; the values themselves must do
            continue
        low, high, step = min(low, scale.low), max(high, scale.high), min(step, 10.0**-scale.decimals)
    return low, max(high, low + step), step


def build_histogram(
    values: Sequence[tuple[float, bool | None]], low: float, high: float, step: float | None
) -> ScoreHistogram:
    """Count values, each with whether its answer is right.

    One bar for each score where every value is a multiple of `step`; else, and for `step` None, bars of equal width.
    """
    discrete = step is not None and (high - low) / step <= 41 and all(_is_whole((v - low) / step) for v, _ in values)
    wide = next((w for w in (0.1, 0.25, 0.5, 1.0, 2.5, 5.0) if (high - low) / w <= 20), (high - low) / 20)
    width = step if discrete and step is not None else wide
    size = round((high - low) / width) + 1 if discrete else math.ceil((high - low) / width - _EPS)
    counts = [[0, 0, 0] for _ in range(size)]
    for value, right in values:
        place = (value - low) / width
        i = round(place) if discrete else math.floor(place + _EPS)  # the top of the scale belongs to the last bar
        counts[min(i, size - 1)][2 if right is None else int(not right)] += 1
    starts = [low + i * width for i in range(size)]
    labels = [f"{s:g}" if discrete else f"{s:g} to {s + width:g}" for s in starts]
    units = (u for u in (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0) if u >= width and (high - low) / u <= 10)
    unit = next(units, high - low)
    marks = [low + k * unit for k in range(math.floor((high - low) / unit + _EPS) + 1)]
    ticks = tuple(((m - low) / width + (0.5 if discrete else 0.0), f"{m:g}") for m in marks)
    top = max(1, *map(sum, counts))
    rise = next(r * 10**e for e in range(9) for r in (1, 2, 5) if top <= 5 * r * 10**e)
    guides = tuple(range(0, top + rise, rise))
    bars = tuple(HistogramBar(label, (c[0], c[1], c[2])) for label, c in zip(labels, counts, strict=True))
    return ScoreHistogram(bars, ticks, guides, len(values))


def _is_whole(number: float) -> bool:
    return abs(number - round(number)) < _EPS
