"""A judge within the trainer's own process, with the same methods as the client of a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flex_judge.judges.concurrency import run_in_background
from flex_judge.judges.errors import UsageError
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.types import Reward, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge


class LocalJudge:
    """Rewards from a judge of this process. A group is what one call has of a prompt: nothing is gathered."""

    def __init__(self, judge: FlexJudge) -> None:
        self.judge = judge

    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        from flex_judge.reward.groups.collector import reward_samples

        return await reward_samples(samples, spec, self.judge.ajudge)

    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        return run_in_background(self.rewards(samples, spec))


def resolve_judge(
    judge: FlexJudge | JudgeClient | str, api_key: str | None, deadline_s: float | None, **limits: int
) -> JudgeClient | LocalJudge:
    """Whatever was given as a judge, as what gives rewards.

    Args:
        judge: a judge of this process, a client, or the URL of a service.
        api_key: the service's key, with a URL.
        deadline_s: seconds that a call may take, with a URL; None for the client's default.
        limits: other settings of a client, with a URL; a client that is given has its own.

    Raises:
        UsageError: `judge` is none, or has its own key and deadline.
    """
    if isinstance(judge, str):
        client = JudgeClient(judge, api_key, **limits)
        return client if deadline_s is None else replace(client, deadline_s=deadline_s)
    if api_key is not None or deadline_s is not None:
        raise UsageError("api_key and deadline_s go with a URL; a JudgeClient has its own, a judge's are its settings")
    if isinstance(judge, JudgeClient):
        return judge
    if not hasattr(judge, "ajudge"):
        raise UsageError(f"judge must be a FlexJudge, a JudgeClient, or the URL of a service, not {judge!r:.80}")
    return LocalJudge(judge)
