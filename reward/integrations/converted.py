"""Rows that were converted to samples, and their judging: one reward per row, also for rows that cannot be judged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from flex_judge.judges.errors import ServiceTimeoutError
from flex_judge.judges.judgments import Status
from flex_judge.reward.types import Reward, RewardSpec, Sample

logger = logging.getLogger(__name__)


class Judge(Protocol):
    """Judge in this process, or client of a service."""

    async def rewards(self, samples: Sequence[Sample], spec: RewardSpec, /) -> list[Reward]:
        """Compute the rewards of samples, in order."""
        ...

    def rewards_sync(self, samples: Sequence[Sample], spec: RewardSpec, /) -> list[Reward]:
        """Compute rewards from code without an event loop."""
        ...


def report_timeout(error: ServiceTimeoutError, count: int) -> list[Reward]:
    """Log that a call has no answer, and build its rewards. The client raises a different error for the next one."""
    logger.warning("%s; the %d responses of this call have no score", error, count)
    return [Reward(None, Status.TIMEOUT, detail=str(error)) for _ in range(count)]


@dataclass(frozen=True)
class ConvertedRows:
    """Samples of one call, without the rows that cannot be read."""

    samples: list[Sample]
    """Samples of the readable rows, in order."""
    problems: dict[int, str]
    """Index of an unreadable row -> reason."""

    async def judge(self, judge: Judge, spec: RewardSpec) -> list[Reward]:
        """Judge the rows. A row that cannot be read, or has no answer in time, is a reward without a value.

        Args:
            judge: client of a service, or judge in this process.
            spec: definition of the rewards.

        Returns:
            One reward per row.

        Raises:
            UsageError: the judge rejects the settings.
            ServiceUnavailableError: the service judges nothing in consecutive calls.
        """
        try:
            rewards = await judge.rewards(self.samples, spec)
        except ServiceTimeoutError as e:
            rewards = report_timeout(e, len(self.samples))
        return self.insert_failures(rewards)

    def judge_sync(self, judge: Judge, spec: RewardSpec) -> list[Reward]:
        """Judge the rows from code without an event loop, see `judge`."""
        try:
            rewards = judge.rewards_sync(self.samples, spec)
        except ServiceTimeoutError as e:
            rewards = report_timeout(e, len(self.samples))
        return self.insert_failures(rewards)

    def insert_failures(self, rewards: Sequence[Reward]) -> list[Reward]:
        """Return one reward per row: the sample's, or `invalid_input` for an unreadable row."""
        remaining = iter(rewards)
        return [
            Reward(None, Status.INVALID_INPUT, detail=self.problems[i]) if i in self.problems else next(remaining)
            for i in range(len(rewards) + len(self.problems))
        ]
