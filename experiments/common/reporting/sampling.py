"""Selection of the judgments that a page shows: failures, doubtful ones and a random rest, in one pass."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flex_judge.experiments.common.reporting.wording import format_count
from flex_judge.judges.judgments import Status

Row = dict[str, Any]
T = TypeVar("T")

MAX_FAILED, MAX_DOUBTFUL, MAX_OTHERS = 40, 15, 25
"""Maximum number of judgments on a page: without a score, those that the judge was least sure of, and others."""
SEED = 0


@dataclass
class JudgmentSample:
    """Counts over all judgments of a file, and the selection of them that a page shows."""

    failed: list[Row] = field(default_factory=list)
    doubtful: list[Row] = field(default_factory=list)
    others: list[Row] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Status and detail of the judgments without a score."""
    scores: list[float] = field(default_factory=list)
    """Written scores of all responses."""
    forced: Counter[str] = field(default_factory=Counter)
    """Reason of forced answers -> number of votes."""
    votes: int = 0
    total: int = 0

    @property
    def num_failed(self) -> int:
        """Number of judgments without a score."""
        return self.total - self.statuses[str(Status.OK)]

    @property
    def shown(self) -> list[Row]:
        """Judgments on the page: failures first, then the least certain ones, then others at random."""
        return [*self.failed, *self.doubtful, *self.others]

    def describe_selection(self) -> str:
        """Describe how many judgments are shown, and which."""
        if len(self.shown) == self.total:
            return f"All {format_count(self.total, 'judgment')}, failures first."
        parts = [f"{len(self.shown):,} of {format_count(self.total, 'judgment')}"]
        if self.num_failed:
            parts.append(f"{len(self.failed):,} of {self.num_failed:,} without a score, taken from every status")
        if self.doubtful:
            parts.append(f"{len(self.doubtful):,} that the judge was least sure of")
        if self.others:
            parts.append(f"{len(self.others):,} at random (seeded)")
        return f"{parts[0]}: {'; '.join(parts[1:])}."


def sample_judgments(rows: Iterable[Row]) -> JudgmentSample:
    """Select judgments for a page in one pass, so that a file of any size can be read. Equal files give equal pages."""
    sample, rng = JudgmentSample(), random.Random(SEED)
    by_status: dict[str, list[Row]] = {}
    doubtful: list[tuple[float, int, Row]] = []
    others: list[tuple[int, Row]] = []
    num_others = 0
    for number, row in enumerate(rows):
        status = str(row["status"])
        sample.total += 1
        sample.statuses[status] += 1
        for vote in row["votes"]:
            sample.votes += 1
            if vote.get("forced_answer"):
                sample.forced[vote["forced_answer"]] += 1
        if row.get("scores") is None:
            detail = next((str(vote["detail"]) for vote in row["votes"] if vote.get("detail")), "")
            if len(sample.reasons) < 1000 or (status, detail) in sample.reasons:
                sample.reasons[status, detail] += 1
            kept = by_status.setdefault(status, [])
            keep_at_random(kept, row, MAX_FAILED, sample.statuses[status], rng)
            continue
        sample.scores += [float(score) for score in row["scores"]]
        doubt = _measure_doubt(row)
        if doubt > 0:
            # Of equal doubt the first rows stay; the number also keeps rows from being compared.
            evicted = (doubt, -number, row)
            if len(doubtful) < MAX_DOUBTFUL:
                heapq.heappush(doubtful, evicted)
                continue
            evicted = heapq.heappushpop(doubtful, evicted)
            number, row = -evicted[1], evicted[2]
        num_others += 1
        keep_at_random(others, (number, row), MAX_OTHERS, num_others, rng)
    sample.others = [row for _, row in sorted(others, key=lambda entry: entry[0])]
    sample.failed = _take_in_turn(list(by_status.values()), MAX_FAILED)
    sample.doubtful = [row for _, _, row in sorted(doubtful, key=lambda entry: (-entry[0], -entry[1]))]
    return sample


def keep_at_random(kept: list[T], entry: T, limit: int, count: int, rng: random.Random) -> None:
    """Add the entry number `count` to a uniform sample of at most `limit` entries."""
    if len(kept) < limit:
        kept.append(entry)
    elif (place := rng.randrange(count)) < limit:
        kept[place] = entry


def _take_in_turn(groups: Sequence[list[Row]], limit: int) -> list[Row]:
    """Take rows from every group in turn, so that a frequent status does not hide a rare one; keep groups together."""
    counts = [0] * len(groups)
    while sum(counts) < limit and any(count < len(group) for count, group in zip(counts, groups, strict=True)):
        for i, group in enumerate(groups):
            if counts[i] < len(group) and sum(counts) < limit:
                counts[i] += 1
    return [row for count, group in zip(counts, groups, strict=True) for row in group[:count]]


def _measure_doubt(row: Mapping[str, Any]) -> float:
    """Measure how unsure a judgment is: orders that disagree first, then the spread of its scores."""
    spread = max((float(s) for s in row.get("spread") or () if s is not None), default=0.0)
    return 1000 * float(row.get("disagreement") or 0.0) + spread
