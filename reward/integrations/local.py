"""In-process judge with the same methods as the client of a service."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flex_judge.judges.concurrency import run_in_background
from flex_judge.judges.errors import UsageError
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.turns import TurnMethods
from flex_judge.reward.types import Reward, RewardSpec, Sample

if TYPE_CHECKING:
    from flex_judge.judges.judge import FlexJudge


class LocalJudge(TurnMethods):
    """Rewards from a judge in this process.

    Groups consist of the samples of one call; there is no collection across calls.
    """

    def __init__(self, judge: FlexJudge) -> None:
        self.judge = judge

    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        """Compute the rewards of samples, in order."""
        from flex_judge.reward.groups.collector import reward_samples

        return await reward_samples(samples, spec, self.judge.ajudge)

    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec) -> list[Reward]:
        """Compute rewards from code without an event loop, see `rewards`."""
        return run_in_background(self.rewards(samples, spec))

    def sleep_sync(self, level: int = 1) -> None:
        """Free the memory of the judge's engine, see `FlexJudge.sleep`."""
        run_in_background(self.judge.sleep_async(level))

    def wake_sync(self) -> None:
        """Wake the judge's engine, see `FlexJudge.wake`."""
        run_in_background(self.judge.wake_async())


def resolve_judge(
    judge: FlexJudge | JudgeClient | str, api_key: str | None, deadline_s: float | None, **limits: int
) -> JudgeClient | LocalJudge:
    """Turn a judge, a client or a URL into an object that computes rewards.

    Args:
        judge: a judge of this process, a client, or the URL of a service.
        api_key: API key of the service; only with a URL.
        deadline_s: time limit of a call in seconds; only with a URL. None uses the client's default.
        limits: other settings of the client, used only with a URL.

    Raises:
        UsageError: `judge` has another type, or `api_key` or `deadline_s` is set without a URL.
    """
    if isinstance(judge, str):
        client = JudgeClient(judge, api_key, **limits)
        return client if deadline_s is None else replace(client, deadline_s=deadline_s)
    if api_key is not None or deadline_s is not None:
        raise UsageError(
            "api_key and deadline_s are only used with a URL; set them on the JudgeClient, or in the judge's settings"
        )
    if isinstance(judge, JudgeClient):
        return judge
    # Duck-typed, because importing FlexJudge here would load the judge's libraries in the trainer's process.
    if not hasattr(judge, "ajudge"):
        raise UsageError(f"judge must be a FlexJudge, a JudgeClient, or the URL of a service, not {judge!r:.80}")
    return LocalJudge(judge)
