"""Rules: which answers of a prompt are judged, and which of them make a pair.

A rule is pure. It says what must be judged, and makes pairs of the judgments, which it knows by their ids. Whatever it
draws, it draws by hashes of the prompt's id, the seed and the answers, so that neither the order of the answers nor the
process that asks makes a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from flex_judge.alignment.data.rows import PromptRow, SampledPrompt
from flex_judge.alignment.preferences.formats import FORMATS
from flex_judge.alignment.preferences.pairs import DROP_REASONS, PairResult
from flex_judge.alignment.preferences.pointwise import AllPairs, HighestLowest, HighestQuantile, PointwiseRule
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.two_temperatures import TwoTemperatures
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.types import Comparison, Message


class Rule(Protocol):
    """How pairs are made."""

    order: ClassVar[str]
    """In which order the judge must read what the rule compares, see `JudgeSettings.order`."""

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        """Raise UsageError if answers sampled at these temperatures, one at each, can make no pair by this rule."""
        ...

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        """What must be judged; nothing where that can't lead to a pair. Ids begin with the prompt's.

        Raises:
            UsageError: the answers were not sampled as the rule needs it.
        """
        ...

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        """The pairs that the judgments come to.

        Args:
            judgments: of the comparisons, in any order; one that is missing counts as unscored.

        Raises:
            UsageError: as above, or they were judged in another order than the rule's.
        """
        ...


RULES: Mapping[str, type[PointwiseRule] | type[TwoTemperatures]] = MappingProxyType(
    {rule.name: rule for rule in (HighestLowest, HighestQuantile, AllPairs, TwoTemperatures)}
)
"""How pairs are made, by name."""


def make_rule(spec: RuleSpec) -> Rule:
    """The rule that the settings name."""
    return RULES[spec.rule](spec)


def pair_highest_with_lowest(
    prompt: Sequence[Message], responses: Sequence[str], judgments: Sequence[Judgment], id: str = ""
) -> dict[str, Any] | str:
    """The answer with the highest score as chosen, the one with the lowest as rejected, in TRL's preference format.

    Args:
        prompt: the conversation that was answered; text alone.
        responses: the answers.
        judgments: one single-response judgment per answer, in the same order.
        id: of the prompt, for the row's provenance.

    Returns:
        The row, or the name in DROP_REASONS of why there is none.
    """
    sampled = SampledPrompt(PromptRow(id, tuple(prompt)), tuple(responses), temperatures=())
    named = [replace(judgment, id=f"{id}/{i}") for i, judgment in enumerate(judgments)]
    found = make_rule(RuleSpec("highest_lowest")).make_pairs(sampled, named)
    if not found.pairs:
        return next(reason for reason in DROP_REASONS if found.dropped[reason])
    (row,) = FORMATS["preference"].make_rows(found.pairs)
    return row
