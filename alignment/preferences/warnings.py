"""Warnings for users of a preference data set, derived from its counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flex_judge.alignment.preferences.stats import CardStats

MIN_CASES = 20
"""Minimum number of cases for a statement about shares."""
MIN_IMBALANCE = 0.1
"""Minimum distance of a share from one half to be worth a warning."""


def list_warnings(stats: CardStats) -> list[str]:
    """List warnings as Markdown sentences, most important first; empty if nothing stands out."""
    return [warning for warning in (check(stats) for check in _CHECKS) if warning]


def find_imbalance(counts: Mapping[str, int], first: str, second: str) -> float | None:
    """Return the share of `first` among `first` and `second` if it differs clearly from one half, else None.

    The difference must exceed both `MIN_IMBALANCE` and two standard errors.
    """
    total = counts.get(first, 0) + counts.get(second, 0)
    if total < MIN_CASES:
        return None
    share = counts.get(first, 0) / total
    # The standard error of a share near one half is 0.5 / sqrt(total).
    return share if abs(share - 0.5) > max(MIN_IMBALANCE, 1 / math.sqrt(total)) else None


def format_percent(share: float) -> str:
    """Format a share in percent, without rounding it to 0 or 100."""
    text = f"{100 * share:.1f}"
    if text in ("0.0", "100.0") and 0 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return f"{text} %"


def _warn_no_pairs(stats: CardStats) -> str:
    return "" if stats.pairs else "The data set has no pair; see the table of dropped pairs for the reasons."


def _warn_repeats(stats: CardStats) -> str:
    repeated = stats.repeated_prompts
    if not repeated:
        return ""
    return (
        f"Prompts repeat: {repeated:,} of {stats.prompts:,} ({format_percent(repeated / stats.prompts)}) equal an "
        "earlier one up to letter case and white space. Split by `provenance.prompt_digest`, not by row, to keep "
        "training and test prompts apart."
    )


def _warn_missing_scores(stats: CardStats) -> str:
    total = stats.judgments.total()
    failed = total - stats.judgments["ok"]
    if total < MIN_CASES or failed / total <= 0.05:
        return ""
    return (
        f"{format_percent(failed / total)} of the judgments have no score. Unscored answers are in no pair, so prompts "
        "on which the judge fails are underrepresented."
    )


def _warn_length_bias(stats: CardStats) -> str:
    share = find_imbalance(stats.chosen_is, "longer", "shorter")
    if share is None:
        return ""
    side = "longer" if share > 0.5 else "shorter"
    return (
        f"The chosen answer is the {side} one in {format_percent(max(share, 1 - share))} of the pairs whose lengths "
        "differ: a policy may learn the length. Narrow it with the filter `max_length_ratio`, or use a "
        "length-controlled loss."
    )


def _warn_position_bias(stats: CardStats) -> str:
    share = find_imbalance(stats.places, "first", "second")
    if share is None:
        return ""
    position = "first" if share > 0.5 else "second"
    percent = format_percent(max(share, 1 - share))
    return f"The judge prefers the answer that it reads {position} in {percent} of its votes."


def _warn_order_disagreement(stats: CardStats) -> str:
    total = stats.orders.total()
    if total < MIN_CASES or stats.orders["disagree"] / total <= 0.3:
        return ""
    share = format_percent(stats.orders["disagree"] / total)
    return f"In {share} of the comparisons the judge's preference changes with the order of the answers."


def _warn_truncation(stats: CardStats) -> str:
    if not stats.chosen_cut:
        return ""
    return (
        f"{stats.chosen_cut:,} chosen answers ({format_percent(stats.chosen_cut / stats.margins.count)}) were "
        "truncated at their token limit: a policy may learn to stop in the middle. Raise the limit, or drop them "
        "(`allow_cut`)."
    )


def _warn_several_rubrics(stats: CardStats) -> str:
    if len(stats.rubrics) < 2:
        return ""
    return "Pairs were judged with several rubrics; do not compare scores and margins across rubrics."


_CHECKS = (
    _warn_no_pairs,
    _warn_repeats,
    _warn_missing_scores,
    _warn_length_bias,
    _warn_position_bias,
    _warn_order_disagreement,
    _warn_truncation,
    _warn_several_rubrics,
)
