"""Preference data: rules that make pairs of judged answers, filters, the formats of trainers, and the data card."""

from alignment.preferences.card import CardSettings, card
from alignment.preferences.filters import FILTERS, FilterSpec, filtered
from alignment.preferences.formats import FORMATS, Format, prompt_columns, sees_images, sees_molecules
from alignment.preferences.pairs import DROP_REASONS, Found, Pair, Side
from alignment.preferences.rule_spec import RuleSpec
from alignment.preferences.rules import RULES, Rule, make_rule
from alignment.preferences.shortcut import highest_against_lowest
from alignment.preferences.stats import CardStats
from alignment.preferences.texts import Repeats, prompt_digest

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
    "Repeats",
    "Rule",
    "RuleSpec",
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
