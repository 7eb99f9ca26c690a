"""Rules: which answers of a prompt are judged, and which of them make a pair.

A rule is pure. It says what must be judged, and makes pairs of the judgments, which it knows by their ids. Whatever it
draws, it draws by hashes of the prompt's id, the seed and the answers, so that neither the order of the answers nor the
process that asks makes a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, Protocol

from flex_judge.alignment.data.rows import Sampled
from flex_judge.alignment.preferences.pairs import Found
from flex_judge.alignment.preferences.pointwise import AllPairs, HighestLowest, HighestQuantile, Pointwise
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.two_temperatures import TwoTemperatures
from flex_judge.judges import Comparison, Judgment


class Rule(Protocol):
    """How pairs are made."""

    order: ClassVar[str]
    """In which order the judge must read what the rule compares, see `JudgeSettings.order`."""

    def check(self, temperatures: Sequence[float]) -> None:
        """Raise UsageError if answers sampled at these temperatures, one at each, can make no pair by this rule."""
        ...

    def comparisons(self, sampled: Sampled, rubric: str) -> list[Comparison]:
        """What must be judged; nothing where that can't lead to a pair. Ids begin with the prompt's.

        Raises:
            UsageError: the answers were not sampled as the rule needs it.
        """
        ...

    def pairs(self, sampled: Sampled, judgments: Iterable[Judgment]) -> Found:
        """The pairs that the judgments come to.

        Args:
            judgments: of the comparisons, in any order; one that is missing counts as unscored.

        Raises:
            UsageError: as above, or they were judged in another order than the rule's.
        """
        ...


RULES: Mapping[str, type[Pointwise] | type[TwoTemperatures]] = MappingProxyType(
    {rule.name: rule for rule in (HighestLowest, HighestQuantile, AllPairs, TwoTemperatures)}
)
"""How pairs are made, by name."""


def make_rule(spec: RuleSpec) -> Rule:
    """The rule that the settings name."""
    return RULES[spec.rule](spec)
