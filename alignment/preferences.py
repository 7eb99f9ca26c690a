"""Preference pairs out of judged candidates, in the format that TRL's DPO, CPO, ORPO and reward trainers read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from alignment.best_of_n import rank
from judges import Judgment, Message
from reward.scoring import expected_score, written_score

DROP_REASONS = {
    "unscored": "fewer than two candidates have a score and a text",
    "tied": "the highest and the lowest score are less than the margin apart",
    "equal_text": "the highest and the lowest candidate are the same text",
}


def highest_against_lowest(
    prompt: Sequence[Message], responses: Sequence[str], judgments: Sequence[Judgment], min_margin: float = 0.0
) -> dict[str, Any] | str:
    """The candidate with the highest written score as chosen, the one with the lowest as rejected.

    Expected scores decide among candidates with the same written score, but never make a pair of two such: a pair
    always has a written score on the chosen side that is higher.

    Args:
        prompt: the conversation that was answered.
        responses: the candidates.
        judgments: one single-response judgment per candidate, in the same order.
        min_margin: scores must differ by at least this much, and always by something.

    Returns:
        The row, or the name in DROP_REASONS of why there is none.
    """
    scored = [i for i, j in enumerate(judgments) if written_score(j) is not None and responses[i].strip()]
    if len(scored) < 2:
        return "unscored"
    chosen = max(scored, key=lambda i: rank(judgments[i]))
    rejected = min(scored, key=lambda i: rank(judgments[i]))
    high, low = rank(judgments[chosen])[0], rank(judgments[rejected])[0]
    margin = round(high - low, 6)  # 3.3 - 3.0 is a little less than 0.3
    if margin <= 0 or margin < min_margin:
        return "tied"
    if responses[chosen].strip() == responses[rejected].strip():
        return "equal_text"
    return {
        "prompt": [{"role": m.role, "content": m.content} for m in prompt],
        "chosen": [{"role": "assistant", "content": responses[chosen]}],
        "rejected": [{"role": "assistant", "content": responses[rejected]}],
        "score_chosen": high,
        "score_rejected": low,
        "margin": margin,
        "judge_reasoning": {"chosen": judgments[chosen].reasoning, "rejected": judgments[rejected].reasoning},
        "provenance": {
            "chosen_index": chosen,
            "rejected_index": rejected,
            "expected_score_chosen": expected_score(judgments[chosen]),
            "expected_score_rejected": expected_score(judgments[rejected]),
            "rule": "highest_against_lowest",
            "judge": judgments[chosen].model,
        },
    }
