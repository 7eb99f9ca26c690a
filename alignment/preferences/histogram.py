"""Distributions that can be added up: exact counts of coarse values, of a bounded size."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BIN_RATIO = 1.05
"""Of neighbouring bins of a Histogram, the upper is this much wider: values are off by 2.5 % at most."""
BINS_PER_UNIT = 10
"""Bins of a Tally in a unit."""
_MICRO = 1_000_000


@dataclass
class LogHistogram:
    """Whole numbers from 0 on, in bins that widen with them (as in DDSketch, arXiv 1908.10693): some 400 bins go up to
    a thousand million. The sum is exact, so that it is the same in whatever order parts are added."""

    total: int = 0
    bins: Counter[int] = field(default_factory=Counter)
    """Bin -> how many; bin -1 is for 0, bin b for the numbers above WIDTH to the power of b - 1, up to that of b."""

    def add(self, value: int) -> None:
        self.total += value
        self.bins[math.ceil(math.log(value, BIN_RATIO) - 1e-9) if value else -1] += 1

    def __add__(self, other: LogHistogram) -> LogHistogram:
        return LogHistogram(self.total + other.total, self.bins + other.bins)

    @property
    def count(self) -> int:
        return self.bins.total()

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> int | None:
        """The number below which that share of all lies, to within 2.5 % and rounding (up to 20, exactly); None where
        there is no number."""
        left = share * (self.count - 1)
        for number in sorted(self.bins):
            left -= self.bins[number]
            if left < 0:
                return 0 if number < 0 else round(2 * BIN_RATIO**number / (BIN_RATIO + 1))
        return None

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total, "bins": _bins_to_json(self.bins)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LogHistogram:
        return cls(row["total"], _bins_from_json(row["bins"]))


@dataclass
class ScoreHistogram:
    """Scores or differences of scores, to a tenth: as many bins as the scale has tenths."""

    micro: int = 0
    """Their sum, in millionths: whole numbers add up to the same in any order."""
    bins: Counter[int] = field(default_factory=Counter)
    """Tenths -> how many."""

    def add(self, value: float) -> None:
        self.micro += round(value * _MICRO)
        self.bins[math.floor(value * BINS_PER_UNIT + 0.5)] += 1

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        return ScoreHistogram(self.micro + other.micro, self.bins + other.bins)

    @property
    def count(self) -> int:
        return self.bins.total()

    @property
    def mean(self) -> float | None:
        return self.micro / _MICRO / self.count if self.count else None

    def compute_shares(self) -> dict[float, float]:
        """Each value that occurs, lowest first -> its share. To whole numbers where the values are so many that tenths
        would not be read."""
        coarse: Counter[float] = Counter()
        whole = len(self.bins) > 2 * BINS_PER_UNIT
        for tenths, count in self.bins.items():
            coarse[math.floor(tenths / BINS_PER_UNIT + 0.5) if whole else tenths / BINS_PER_UNIT] += count
        return {value: coarse[value] / self.count for value in sorted(coarse)}

    def to_json(self) -> dict[str, Any]:
        return {"micro": self.micro, "bins": _bins_to_json(self.bins)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ScoreHistogram:
        return cls(row["micro"], _bins_from_json(row["bins"]))


def _bins_to_json(bins: Counter[int]) -> dict[str, int]:
    return {str(number): bins[number] for number in sorted(bins)}


def _bins_from_json(bins: Mapping[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in bins.items()})
