"""Settings of the pairing rules."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval

from flex_judge.judges.validation.classes import settings_class

RuleName = Literal["highest_lowest", "highest_quantile", "all_pairs", "two_temperatures"]
Winner = Literal["low", "high", "either"]


@settings_class
class RuleSpec:
    """Pairing rule and its settings."""

    rule: RuleName = "highest_lowest"
    """Rule that makes pairs from a prompt's answers."""
    winner: Winner = "low"
    """Temperature whose answer may be chosen by the rule two_temperatures; low is the paper's."""
    quantile: Annotated[float, Interval(ge=0, lt=1)] = 0.25
    """Quantile of the rejected answer by score, for the rule highest_quantile: 0 is the lowest, 0.5 the median."""
    seed: int = 0
    """Seed of random tie-breaks between answers that the judge scores alike."""
