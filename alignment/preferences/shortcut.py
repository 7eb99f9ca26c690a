"""One prompt's judged answers to a row of a preference data set, without a run around it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flex_judge.alignment.data.rows import PromptRow, Sampled
from flex_judge.alignment.preferences.formats import FORMATS
from flex_judge.alignment.preferences.pairs import DROP_REASONS
from flex_judge.alignment.preferences.rule_spec import RuleSpec
from flex_judge.alignment.preferences.rules import make_rule
from flex_judge.judges import Judgment, Message


def highest_against_lowest(
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
    sampled = Sampled(PromptRow(id, tuple(prompt)), tuple(responses), temperatures=())
    named = [replace(judgment, id=f"{id}/{i}") for i, judgment in enumerate(judgments)]
    found = make_rule(RuleSpec("highest_lowest")).pairs(sampled, named)
    if not found.pairs:
        return next(reason for reason in DROP_REASONS if found.dropped[reason])
    (row,) = FORMATS["preference"].rows(found.pairs)
    return row
