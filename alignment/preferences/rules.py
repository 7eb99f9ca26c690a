"""Rules: which answers of a prompt are judged and which of them make a pair.

A rule is a pure function of the answers and judgments. It lists the comparisons to judge and makes pairs from the
judgments, which it matches by id. Random choices are hashes of the prompt's id, the seed and the answers, so that the
result depends neither on the order of the answers nor on the process that runs the rule.
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
    """Interface of the pairing rules."""

    order: ClassVar[str]
    """Reading order that the judge must use, see `JudgeSettings.order`."""

    def check_temperatures(self, temperatures: Sequence[float]) -> None:
        """Raise UsageError if answers sampled at these temperatures, one each, cannot make a pair."""
        ...

    def make_comparisons(self, sampled: SampledPrompt, rubric: str) -> list[Comparison]:
        """List the comparisons to judge; empty if no pair is possible. Ids start with the prompt's id.

        Raises:
            UsageError: The answers were not sampled as the rule requires.
        """
        ...

    def make_pairs(self, sampled: SampledPrompt, judgments: Iterable[Judgment]) -> PairResult:
        """Make pairs from judgments.

        Args:
            sampled: The prompt with its answers.
            judgments: Judgments of the comparisons, in any order. A missing one counts as unscored.

        Raises:
            UsageError: The answers were not sampled as the rule requires, or were judged in another order.
        """
        ...


RULES: Mapping[str, type[PointwiseRule] | type[TwoTemperatures]] = MappingProxyType(
    {rule.name: rule for rule in (HighestLowest, HighestQuantile, AllPairs, TwoTemperatures)}
)
"""Rule classes by name."""


def make_rule(spec: RuleSpec) -> Rule:
    """Create the rule that the settings name."""
    return RULES[spec.rule](spec)


def pair_highest_with_lowest(
    prompt: Sequence[Message], responses: Sequence[str], judgments: Sequence[Judgment], id: str = ""
) -> dict[str, Any] | str:
    """Pair the answer with the highest score (chosen) with the lowest (rejected), in TRL's preference format.

    Args:
        prompt: The conversation that was answered; text only.
        responses: The answers.
        judgments: One single-response judgment per answer, in the same order.
        id: Id of the prompt, for the row's provenance.

    Returns:
        The row, or a name in DROP_REASONS if there is no pair.
    """
    sampled = SampledPrompt(PromptRow(id, tuple(prompt)), tuple(responses), temperatures=())
    renamed = [replace(judgment, id=f"{id}/{i}") for i, judgment in enumerate(judgments)]
    result = make_rule(RuleSpec("highest_lowest")).make_pairs(sampled, renamed)
    if not result.pairs:
        return next(reason for reason in DROP_REASONS if result.dropped[reason])
    (row,) = FORMATS["preference"].make_rows(result.pairs)
    return row
