"""Which rule makes pairs, and its settings."""

from __future__ import annotations

from dataclasses import dataclass

from flex_judge.judges.errors import UsageError

NAMES = ("highest_lowest", "highest_quantile", "all_pairs", "two_temperatures")
WINNERS = ("low", "high", "either")


@dataclass(frozen=True)
class RuleSpec:
    """Which rule, and its settings."""

    name: str = "highest_lowest"
    """One of NAMES."""
    winner: str = "low"
    """For `two_temperatures`: the temperature whose answer may be the chosen one. `low` is the paper's."""
    quantile: float = 0.25
    """For `highest_quantile`: where among the scored answers the rejected one stands: 0 the lowest, 0.5 the middle."""
    seed: int = 0
    """Decides between answers that the judge finds equal."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"rule must be one of {', '.join(NAMES)}, not {self.name!r}")
        if self.winner not in WINNERS:
            raise UsageError(f"winner must be one of {', '.join(WINNERS)}, not {self.winner!r}")
        if not 0 <= self.quantile < 1:
            raise UsageError(f"quantile must be 0 or more and below 1, not {self.quantile}")
