"""What a user of a preference data set should know before training on it, read off its counts."""

from __future__ import annotations

import math
from collections.abc import Mapping

from flex_judge.alignment.preferences.stats import CardStats

MIN_CASES = 20
"""Cases below which nothing is said of shares."""
MIN_IMBALANCE = 0.1
"""How far from a half a share must be to be worth a word, beside what chance explains."""


def list_warnings(stats: CardStats) -> list[str]:
    """Sentences in Markdown, those first that matter most; none where nothing stands out."""
    return [warning for warning in (check(stats) for check in _CHECKS) if warning]


def find_imbalance(counts: Mapping[str, int], one: str, other: str) -> float | None:
    """The share of `one` among both, where it is further from a half than chance (two standard errors) and LEANING
    explain; else None."""
    total = counts.get(one, 0) + counts.get(other, 0)
    if total < MIN_CASES:
        return None
    share = counts.get(one, 0) / total
    return share if abs(share - 0.5) > max(MIN_IMBALANCE, 1 / math.sqrt(total)) else None


def format_percent(share: float) -> str:
    """A share in per cent; of one that is nearly none or nearly all, never 0 or 100."""
    shown = f"{100 * share:.1f}"
    if shown in ("0.0", "100.0") and 0 < share < 1:
        return "less than 0.1 %" if share < 0.5 else "more than 99.9 %"
    return f"{shown} %"


def _warn_no_pairs(stats: CardStats) -> str:
    return "" if stats.pairs else "There is no pair: the table of what was dropped says why."


def _warn_repeats(stats: CardStats) -> str:
    repeated = stats.repeated_prompts
    if not repeated:
        return ""
    return (
        f"Prompts repeat: {repeated:,} of {stats.prompts:,} ({format_percent(repeated / stats.prompts)}) are the same as an "
        "earlier one but for letter case and white space. Split by `provenance.prompt_digest`, not by row, or the same "
        "prompt is trained and tested on."
    )


def _warn_missing_scores(stats: CardStats) -> str:
    total = stats.judgments.total()
    failed = total - stats.judgments["ok"]
    if total < MIN_CASES or failed / total <= 0.05:
        return ""
    return (
        f"{format_percent(failed / total)} of the judgments have no score. Answers without one are in no pair, so prompts on "
        "which the judge fails are rarer here than in the source."
    )


def _warn_length_bias(stats: CardStats) -> str:
    share = find_imbalance(stats.chosen_is, "longer", "shorter")
    if share is None:
        return ""
    which = "longer" if share > 0.5 else "shorter"
    return (
        f"The chosen answer is the {which} one in {format_percent(max(share, 1 - share))} of the pairs whose lengths differ: "
        "a policy may learn the length. The filter `max_length_ratio` narrows it, and length-controlled losses help."
    )


def _warn_position_bias(stats: CardStats) -> str:
    share = find_imbalance(stats.places, "first", "second")
    if share is None:
        return ""
    which = "first" if share > 0.5 else "second"
    return (
        f"The judge prefers the answer that it reads {which} in {format_percent(max(share, 1 - share))} of its votes."
    )


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
        f"Of the chosen answers {stats.chosen_cut:,} ({format_percent(stats.chosen_cut / stats.margins.count)}) were cut off "
        "at the most tokens: a policy may learn to stop in the middle. Sample longer, or leave them out (`allow_cut`)."
    )


def _warn_several_rubrics(stats: CardStats) -> str:
    if len(stats.rubrics) < 2:
        return ""
    return "Pairs were judged by several rubrics; scores and margins of different ones cannot be compared."


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
