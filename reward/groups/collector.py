"""Collect the completions of a prompt from any number of callers and judge them as one group.

A group is identified by its content (`RewardSpec.compute_group_id`), not by its callers: the ranks of a trainer, and
callers with one sample each, fill the same group.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol, TypeVar

from flex_judge.judges.concurrency import gather_all
from flex_judge.reward.groups.group import Group
from flex_judge.reward.groups.methods import JudgeFunction, check_samples, judge_group
from flex_judge.reward.groups.rewards import build_rewards
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

T = TypeVar("T")
MAX_RETAINED_BYTES = 256 << 20
"""Memory limit of all groups that wait for latecomers; the oldest are dropped first."""


async def reward_samples(samples: Sequence[Sample], spec: RewardSpec, judge: JudgeFunction) -> list[Reward]:
    """Compute the rewards of the samples of one call, without waiting for other calls.

    Samples with the same prompt form a group, wherever they are in the list. If there are more than `spec.group_size`,
    they fill several groups in turn.

    Args:
        samples: completions of any number of prompts.
        spec: how they are judged.
        judge: judges one comparison.

    Returns:
        One reward for each sample, in the same order.

    Raises:
        UsageError: a sample cannot be judged with these settings; the message names it.
        JudgeError: the first error of `judge`.
    """
    check_samples(samples, spec)
    groups = _group_indices(samples, spec)

    async def reward_group(indices: list[int]) -> list[Reward]:
        members = [samples[i] for i in indices]
        # A reward that needs no group is never incomplete, whatever group size is set.
        info = GroupInfo(len(members), spec.group_size if spec.needs_group else None)
        return build_rewards(await judge_group(members, spec, judge), spec, info)

    rewards: dict[int, Reward] = {}
    for indices, group_rewards in zip(groups, await gather_all(map(reward_group, groups)), strict=True):
        rewards.update(zip(indices, group_rewards, strict=True))
    return [rewards[i] for i in range(len(samples))]


def _group_indices(samples: Sequence[Sample], spec: RewardSpec) -> list[list[int]]:
    """Split the samples into groups; returns the sample indices of each group."""
    groups: list[list[int]] = []
    open_groups: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        identity = spec.compute_group_id(sample)
        if identity not in open_groups or len(open_groups[identity]) == spec.group_size:
            open_groups[identity] = []
            groups.append(open_groups[identity])
        open_groups[identity].append(i)
    return groups


class GroupMetrics(Protocol):
    """Receiver of the events of groups."""

    def set_waiting_groups(self, count: int) -> None:
        """Set the number of groups that wait for missing members."""

    def record_group(self, seconds: float, complete: bool) -> None:
        """Record the end of a group's wait: its duration, and whether all members arrived."""


class GroupCollector:
    """Collector that fills groups across calls, judges them, and returns the rewards.

    A group is judged when it has `group_size` members, or incomplete when `group_timeout_s` have passed since its first
    member. A member that arrives within `retain_s` after that is a latecomer: it is judged against the present members
    and marked as late, until the group is complete. The next member then starts a new group.

    Complete groups are dropped at once, and so are groups that all callers gave up. Incomplete groups are dropped after
    `retain_s`, or earlier if all retained groups exceed MAX_RETAINED_BYTES.

    A collector belongs to one event loop and uses its clock.
    """

    def __init__(self, judge: JudgeFunction, retain_s: float = 600.0, metrics: GroupMetrics | None = None) -> None:
        self._judge, self._retain_s = judge, retain_s
        self._metrics = metrics
        self._waiting_since: dict[str, float] = {}  # groups that were not judged yet
        self._groups: dict[str, Group] = {}  # groups that accept members
        self._timers: dict[str, asyncio.TimerHandle] = {}  # first the group timeout, then the end of retention
        self._retained: OrderedDict[str, int] = OrderedDict()  # bytes of the judged groups, oldest first
        self._tasks: set[asyncio.Task[Any]] = set()
        self._futures: set[asyncio.Future[Reward]] = set()
        self._closed = False

    def add(
        self, samples: Sequence[Sample], spec: RewardSpec, deadline_s: float | None = None
    ) -> list[asyncio.Future[Reward]]:
        """Add samples to their groups.

        Samples whose reward needs no group, or whose group has no set size, are judged at once among the samples of
        this call.

        Args:
            samples: completions of any number of prompts.
            spec: how they are judged.
            deadline_s: seconds from now after which a comparison without a verdict gets the status timeout; the other
                comparisons of its group are not affected. The earliest deadline of a group's callers counts. Waiting
                for members uses part of it, so it should be longer than `group_timeout_s`.

        Returns:
            One future per sample, in order. Cancel a future to give up its sample; work that all callers gave up is
            cancelled. If a comparison of a group cannot be judged, all futures of the group raise its error.

        Raises:
            UsageError: a sample cannot be judged with these settings; the message names it. No sample was added.
            RuntimeError: the collector was closed.
        """
        if self._closed:
            raise RuntimeError("the collector was closed")
        check_samples(samples, spec)
        deadline = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
        if spec.needs_group and spec.group_size is not None:
            futures = [self._join_group(sample, spec, deadline) for sample in samples]
        else:
            future_by_index: dict[int, asyncio.Future[Reward]] = {}
            for indices in _group_indices(samples, spec):
                # Not registered in `_groups`: no later call can join it, so nothing must be cleaned up at its end.
                group = Group(spec, self._judge, None, self._start_task, lambda _: None)
                for i in indices:
                    future_by_index[i] = group.add(samples[i], deadline)
                group.start_judging()
            futures = [future_by_index[i] for i in range(len(samples))]
        for future in futures:
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
        return futures

    async def close(self) -> None:
        """Cancel all pending futures and all work, and wait for the work to end."""
        self._closed = True
        for identity in list(self._groups):
            self._forget_group(identity)
        for future in list(self._futures):
            future.cancel()  # the groups then end their work, as if all callers had given up
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join_group(self, sample: Sample, spec: RewardSpec, deadline: float | None) -> asyncio.Future[Reward]:
        identity = spec.compute_group_id(sample)
        group = self._groups.get(identity)
        if group is None:
            # All work of a group runs in the context of its first member, so that one adapter judges all members.
            start_task = partial(self._start_task, context=copy_context())
            group = Group(
                spec, self._judge, spec.group_size, start_task, lambda ended: self._forget_group(identity, ended)
            )
            self._groups[identity] = group
            self._waiting_since[identity] = asyncio.get_running_loop().time()
            self._report_waiting_groups()
            self._start_timer(spec.group_timeout_s, identity)
        future = group.add(sample, deadline)
        if group.is_full:
            self._end_wait(identity, complete=True)
            self._forget_group(identity)
            group.start_judging()
        elif group.closed:
            self._retain_group(identity)
        return future

    def _start_timer(self, seconds: float, identity: str) -> None:
        self._timers[identity] = asyncio.get_running_loop().call_later(seconds, self._handle_timeout, identity)

    def _handle_timeout(self, identity: str) -> None:
        group = self._groups[identity]
        if group.closed:
            self._forget_group(identity)
            return
        self._end_wait(identity, complete=False)
        group.start_judging()
        self._start_timer(self._retain_s, identity)
        self._retain_group(identity)

    def _retain_group(self, identity: str) -> None:
        """Update the size of a judged group, and drop the oldest groups if the total exceeds the limit."""
        self._retained[identity] = self._groups[identity].size_bytes
        while sum(self._retained.values()) > MAX_RETAINED_BYTES:
            self._forget_group(next(iter(self._retained)))

    def _forget_group(self, identity: str, group: Group | None = None) -> None:
        """Stop adding members to a group; its current work continues.

        Args:
            identity: identity of the group.
            group: do nothing unless this is the current group of that identity. None accepts any group.
        """
        if identity in self._groups and group in (None, self._groups[identity]):
            del self._groups[identity]
            self._timers.pop(identity).cancel()
            self._retained.pop(identity, None)
            self._waiting_since.pop(identity, None)  # present only if all callers gave up
            self._report_waiting_groups()

    def _end_wait(self, identity: str, complete: bool) -> None:
        """Record that a group stops waiting for members. Does nothing for a group that was judged before."""
        since = self._waiting_since.pop(identity, None)
        self._report_waiting_groups()
        if since is not None and self._metrics is not None:
            self._metrics.record_group(asyncio.get_running_loop().time() - since, complete)

    def _report_waiting_groups(self) -> None:
        if self._metrics is not None:
            self._metrics.set_waiting_groups(len(self._waiting_since))

    def _start_task(self, work: Coroutine[Any, Any, T], context: Context | None = None) -> asyncio.Task[T]:
        # The event loop holds tasks weakly, so a reference is kept until the task ends.
        task = asyncio.get_running_loop().create_task(work, context=None if context is None else context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
