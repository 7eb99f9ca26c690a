"""Score scales, and the four options that can replace scores for a pair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

MAX_LABELS = 1001
"""Maximum number of scores on a scale. The grammar of a forced answer lists every score."""
OPTIONS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"A>B": (1.0, 0.0), "B>A": (0.0, 1.0), "A=B=Good": (0.5, 0.5), "A=B=Bad": (0.5, 0.5)}
)
"""Option -> each response's share of the win. An answer writes the option as `[[A>B]]`."""


@dataclass(frozen=True)
class Scale:
    """Scale of evenly spaced scores: `1-10` has ten scores, `1.0-5.0` has 41."""

    low: float
    """Worst score."""
    high: float
    """Best score."""
    decimals: int = 0
    """Number of decimals; adjacent scores differ by one in the last decimal."""

    @classmethod
    def parse(cls, text: str) -> Scale:
        """Parse a scale such as `1-10` or `1.0-5.0`.

        Raises:
            ValueError: the text is not a scale, or the scale has more than MAX_LABELS scores.
        """
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?-\d{1,9}(\.\d{1,9})?", text):
            raise ValueError(f"{text!r} is not a scale such as 1-10 or 1.0-5.0")
        low, _, high = text.partition("-")
        decimals = len(low.partition(".")[2])
        scale = cls(float(low), float(high), decimals)
        # Comparing with str(scale) rejects other spellings such as 01-10, which no label of the scale would match.
        if scale.low >= scale.high or len(high.partition(".")[2]) != decimals or str(scale) != text:
            raise ValueError(f"{text!r} is not a scale such as 1-10 or 1.0-5.0")
        if scale._steps >= MAX_LABELS:
            raise ValueError(f"{text!r} has more than {MAX_LABELS} scores")
        return scale

    def __str__(self) -> str:
        return f"{self.low:.{self.decimals}f}-{self.high:.{self.decimals}f}"

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Text of every score, lowest first."""
        # Each score is computed from its index, because repeated addition of 0.1 accumulates rounding errors.
        return tuple(f"{self.low + i / 10**self.decimals:.{self.decimals}f}" for i in range(self._steps + 1))

    @property
    def middle(self) -> float:
        """The score halfway between worst and best."""
        return (self.low + self.high) / 2

    def __contains__(self, score: float) -> bool:
        """Return whether a score is in range; 4.5 is in 1-5, although the scale has no label for it."""
        return self.low <= score <= self.high

    @property
    def _steps(self) -> int:
        return round((self.high - self.low) * 10.0**self.decimals)


SHARES = Scale(0.0, 1.0, 1)
"""Scale of verdicts with options: each response's share of the win, 0, 0.5 or 1."""
