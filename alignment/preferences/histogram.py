"""Mergeable histograms: exact counts of binned values in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BIN_RATIO = 1.05
"""Ratio of neighbouring bin limits of a LogHistogram. Quantiles are off by at most 2.5 %."""
BINS_PER_UNIT = 10
"""Bins per unit of a ScoreHistogram."""
_MICRO = 1_000_000


@dataclass
class LogHistogram:
    """Histogram of non-negative integers with logarithmic bins (as in DDSketch, arXiv 1908.10693).

    About 400 bins cover values up to a billion. The sum is an exact integer, so the result does not depend on the
    order of the shards.
    """

    total: int = 0
    """Sum of the values."""
    bins: Counter[int] = field(default_factory=Counter)
    """Bin -> count. Bin -1 holds 0; bin b holds values above BIN_RATIO**(b - 1), up to BIN_RATIO**b."""

    def add(self, value: int) -> None:
        """Add one value."""
        self.total += value
        # The small constant keeps exact powers in their own bin in spite of rounding.
        self.bins[math.ceil(math.log(value, BIN_RATIO) - 1e-9) if value else -1] += 1

    def __add__(self, other: LogHistogram) -> LogHistogram:
        """Merge two histograms."""
        return LogHistogram(self.total + other.total, self.bins + other.bins)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.bins.total()

    @property
    def mean(self) -> float | None:
        """Exact mean; None without values."""
        return self.total / self.count if self.count else None

    def quantile(self, share: float) -> int | None:
        """Return the value at a quantile, within 2.5 % and rounding (exact up to 20); None without values."""
        remaining = share * (self.count - 1)
        for number in sorted(self.bins):
            remaining -= self.bins[number]
            if remaining < 0:
                # The harmonic mean of the bin limits minimises the maximum relative error.
                return 0 if number < 0 else round(2 * BIN_RATIO**number / (BIN_RATIO + 1))
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the histogram as plain JSON values."""
        return {"total": self.total, "bins": _bins_to_json(self.bins)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> LogHistogram:
        """Load a histogram from the result of `to_json`."""
        return cls(row["total"], _bins_from_json(row["bins"]))


@dataclass
class ScoreHistogram:
    """Histogram of scores or score differences with bins of one tenth."""

    micro: int = 0
    """Sum of the values in millionths: an integer, so the result does not depend on the order of merging."""
    bins: Counter[int] = field(default_factory=Counter)
    """Value in tenths -> count."""

    def add(self, value: float) -> None:
        """Add one value."""
        self.micro += round(value * _MICRO)
        self.bins[math.floor(value * BINS_PER_UNIT + 0.5)] += 1

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        """Merge two histograms."""
        return ScoreHistogram(self.micro + other.micro, self.bins + other.bins)

    @property
    def count(self) -> int:
        """Number of values."""
        return self.bins.total()

    @property
    def mean(self) -> float | None:
        """Mean to six decimals; None without values."""
        return self.micro / _MICRO / self.count if self.count else None

    def compute_shares(self) -> dict[float, float]:
        """Return value -> share of all values, in ascending order.

        Values are rounded to integers if there are too many distinct tenths to read.
        """
        counts: Counter[float] = Counter()
        is_coarse = len(self.bins) > 2 * BINS_PER_UNIT
        for tenths, count in self.bins.items():
            value = tenths / BINS_PER_UNIT
            counts[math.floor(value + 0.5) if is_coarse else value] += count
        return {value: counts[value] / self.count for value in sorted(counts)}

    def to_json(self) -> dict[str, Any]:
        """Return the histogram as plain JSON values."""
        return {"micro": self.micro, "bins": _bins_to_json(self.bins)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> ScoreHistogram:
        """Load a histogram from the result of `to_json`."""
        return cls(row["micro"], _bins_from_json(row["bins"]))


def _bins_to_json(bins: Counter[int]) -> dict[str, int]:
    return {str(number): bins[number] for number in sorted(bins)}


def _bins_from_json(bins: Mapping[str, int]) -> Counter[int]:
    return Counter({int(number): count for number, count in bins.items()})
