"""Alignment: improve models with judge rewards, by best-of-N, preference data and training.

Importing this package loads no model library. May import `flex_judge.judges` and `flex_judge.reward`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flex_judge.lazy import lazy_exports

if TYPE_CHECKING:
    from flex_judge.alignment.best_of_n.selection import Choice, Selection, SelectionSpec, select_best
    from flex_judge.alignment.policies.base import Completion, Policy
    from flex_judge.alignment.policies.config import PolicyConfig, load_policy
    from flex_judge.alignment.preferences.filters import FilterSpec
    from flex_judge.alignment.preferences.rule_spec import RuleSpec
    from flex_judge.alignment.preferences.rules import make_rule, pair_highest_with_lowest

__getattr__ = lazy_exports(
    __name__,
    {
        "flex_judge.alignment.best_of_n.selection": ["Choice", "Selection", "SelectionSpec", "select_best"],
        "flex_judge.alignment.policies.base": ["Completion", "Policy"],
        "flex_judge.alignment.policies.config": ["PolicyConfig", "load_policy"],
        "flex_judge.alignment.preferences.filters": ["FilterSpec"],
        "flex_judge.alignment.preferences.rule_spec": ["RuleSpec"],
        "flex_judge.alignment.preferences.rules": ["pair_highest_with_lowest", "make_rule"],
    },
)

__all__ = [
    "Choice",
    "Completion",
    "FilterSpec",
    "Policy",
    "PolicyConfig",
    "RuleSpec",
    "Selection",
    "SelectionSpec",
    "load_policy",
    "make_rule",
    "pair_highest_with_lowest",
    "select_best",
]
