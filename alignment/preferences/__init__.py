"""Preference data: rules that make pairs of judged answers, filters, the formats of trainers, and the data card."""

from flex_judge.alignment.data.texts import SeenPrompts, prompt_digest
from flex_judge.alignment.preferences.card import CardSettings, card
from flex_judge.alignment.preferences.filters import FILTERS, FilterSpec, filtered
from flex_judge.alignment.preferences.formats import FORMATS, Format, prompt_columns, sees_images, sees_molecules
from flex_judge.alignment.preferences.pairs import DROP_REASONS, Found, Pair, Side
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import RULES, Rule, make_rule
from flex_judge.alignment.preferences.shortcut import highest_against_lowest
from flex_judge.alignment.preferences.stats import CardStats

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
    "card",
    "filtered",
    "highest_against_lowest",
    "make_rule",
    "prompt_columns",
    "prompt_digest",
    "sees_images",
    "sees_molecules",
]
