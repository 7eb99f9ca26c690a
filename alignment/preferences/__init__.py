"""Preference data: rules that make pairs of judged answers, filters, trainer formats and the data card.

May import data and best_of_n.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.alignment.data.texts import SeenPrompts, prompt_digest
    from flex_judge.alignment.preferences.card import CardSettings
    from flex_judge.alignment.preferences.filters import FILTERS, FilterSpec, filtered
    from flex_judge.alignment.preferences.formats import FORMATS, Format, prompt_columns, sees_images, sees_molecules
    from flex_judge.alignment.preferences.pairs import DROP_REASONS, Found, Pair, Side
    from flex_judge.alignment.preferences.rule_spec import RuleSpec
    from flex_judge.alignment.preferences.rules import RULES, Rule, highest_against_lowest, make_rule
    from flex_judge.alignment.preferences.stats import CardStats

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.alignment.data.texts": ["SeenPrompts", "prompt_digest"],
        "flex_judge.alignment.preferences.card": ["CardSettings"],
        "flex_judge.alignment.preferences.filters": ["FILTERS", "FilterSpec", "filtered"],
        "flex_judge.alignment.preferences.formats": [
            "FORMATS",
            "Format",
            "prompt_columns",
            "sees_images",
            "sees_molecules",
        ],
        "flex_judge.alignment.preferences.pairs": ["DROP_REASONS", "Found", "Pair", "Side"],
        "flex_judge.alignment.preferences.rule_spec": ["RuleSpec"],
        "flex_judge.alignment.preferences.rules": ["RULES", "Rule", "highest_against_lowest", "make_rule"],
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
    "Found",
    "Pair",
    "Rule",
    "RuleSpec",
    "SeenPrompts",
    "Side",
    "filtered",
    "highest_against_lowest",
    "make_rule",
    "prompt_columns",
    "prompt_digest",
    "sees_images",
    "sees_molecules",
]
