"""Preference data: rules that pair judged answers, filters, trainer formats and the data card.

May import data and best_of_n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.alignment.data.texts import SeenPrompts, compute_prompt_digest
    from flex_judge.alignment.preferences.card import CardSettings
    from flex_judge.alignment.preferences.filters import FILTERS, FilterSpec, filter_pairs
    from flex_judge.alignment.preferences.formats import FORMATS, Format
    from flex_judge.alignment.preferences.pairs import DROP_REASONS, Pair, PairResult, Side
    from flex_judge.alignment.preferences.prompt_columns import has_images, has_molecules, make_prompt_columns
    from flex_judge.alignment.preferences.rule_spec import RuleSpec
    from flex_judge.alignment.preferences.rules import RULES, Rule, make_rule, pair_highest_with_lowest
    from flex_judge.alignment.preferences.stats import CardStats

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.alignment.data.texts": ["SeenPrompts", "compute_prompt_digest"],
        "flex_judge.alignment.preferences.card": ["CardSettings"],
        "flex_judge.alignment.preferences.filters": ["FILTERS", "FilterSpec", "filter_pairs"],
        "flex_judge.alignment.preferences.formats": ["FORMATS", "Format"],
        "flex_judge.alignment.preferences.pairs": ["DROP_REASONS", "Pair", "PairResult", "Side"],
        "flex_judge.alignment.preferences.prompt_columns": ["has_images", "has_molecules", "make_prompt_columns"],
        "flex_judge.alignment.preferences.rule_spec": ["RuleSpec"],
        "flex_judge.alignment.preferences.rules": ["RULES", "Rule", "make_rule", "pair_highest_with_lowest"],
        "flex_judge.alignment.preferences.stats": ["CardStats"],
    },
)

__all__ = [
    "DROP_REASONS",
    "FILTERS",
    "FORMATS",
    "RULES",
    "CardSettings",
    "CardStats",
    "FilterSpec",
    "Format",
    "Pair",
    "PairResult",
    "Rule",
    "RuleSpec",
    "SeenPrompts",
    "Side",
    "compute_prompt_digest",
    "filter_pairs",
    "has_images",
    "has_molecules",
    "make_prompt_columns",
    "make_rule",
    "pair_highest_with_lowest",
]
