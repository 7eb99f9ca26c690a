"""What a training run sees of its judge: figures of a call, and a row of columns for each completion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from flex_judge.judges.judgments import Status
from flex_judge.reward.types import Reward


def figures(rewards: Sequence[Reward], seconds: float) -> dict[str, float]:
    """Figures of one call, all finite. `score_mean`, and `disagreement` between orders, are left out where no
    completion has them; the others are always there.

    Shares (`scored`, one `status_...` for each status, `whole`: judged in time and in a complete group) are of all
    completions; tokens are means per completion, latency is the call's, in seconds.
    """
    count = max(1, len(rewards))
    found = {f"status_{status}": sum(r.status == status for r in rewards) / count for status in Status}
    found["scored"] = sum(r.value is not None for r in rewards) / count
    found["whole"] = sum(r.group.complete and not r.group.late for r in rewards) / count
    found["latency_s"] = seconds
    for name in ("prompt_tokens", "cached_tokens", "generated_tokens"):
        found[name] = sum(getattr(r.usage, name) for r in rewards) / count
    means = {
        "score_mean": _mean(r.score for r in rewards),
        "disagreement": _mean(r.disagreement for r in rewards),
    }
    return found | {name: mean for name, mean in means.items() if mean is not None}


def columns(rewards: Sequence[Reward]) -> dict[str, list[Any]]:
    """For each completion what the judge thought, its status and the score that it wrote (None if unscored)."""
    return {
        "reasoning": [r.reasoning or r.detail for r in rewards],
        "status": [str(r.status) for r in rewards],
        "score": [r.score for r in rewards],
    }


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
