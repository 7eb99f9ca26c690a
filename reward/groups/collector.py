"""Gathering the completions of a prompt from any number of callers, and judging them as one group.

A group is told by what it is (`RewardSpec.group_of`), never by who sends it or at what place: the ranks of a trainer
and callers with one sample each fill the same group.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from flex_judge.judges.concurrency import gather_all
from flex_judge.reward.groups.group import Group
from flex_judge.reward.groups.methods import Ask, check_samples, judge_group
from flex_judge.reward.groups.rewards import build_rewards
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

T = TypeVar("T")
MAX_RETAINED_BYTES = 256 << 20
"""What all groups that wait for latecomers may hold together; beyond it the oldest are forgotten."""


async def reward_samples(samples: Sequence[Sample], spec: RewardSpec, ask: Ask) -> list[Reward]:
    """The rewards of samples that are all there, in the same order. Nothing is waited for.

    Samples with the same prompt are a group wherever they stand; where they are more than `spec.group_size`, so many
    in turn are.

    Raises:
        UsageError: a sample that cannot be judged so; the message names it. Or what `ask` raises.
    """
    check_samples(samples, spec)
    groups = _group_indices(samples, spec)

    async def judged(places: list[int]) -> list[Reward]:
        members = [samples[i] for i in places]
        note = GroupInfo(len(members), spec.group_size if spec.needs_group else None)
        return build_rewards(await judge_group(members, spec, ask), spec, note)

    found = await gather_all(judged(places) for places in groups)
    by_place = {
        i: r for places, rewards in zip(groups, found, strict=True) for i, r in zip(places, rewards, strict=True)
    }
    return [by_place[i] for i in range(len(samples))]


def _group_indices(samples: Sequence[Sample], spec: RewardSpec) -> list[list[int]]:
    """The places of the samples of each group."""
    groups: list[list[int]] = []
    filling: dict[str, list[int]] = {}
    for i, sample in enumerate(samples):
        identity = spec.compute_group_id(sample)
        if identity not in filling or len(filling[identity]) == spec.group_size:
            filling[identity] = []
            groups.append(filling[identity])
        filling[identity].append(i)
    return groups


class GroupCollector:
    """Collects samples into groups across calls, has the groups judged, and hands out the rewards.

    A group is judged when it has `group_size` members, or `group_timeout_s` after its first one came with what there
    is.
    In the second case whoever comes within `retain_s` more is late, judged against what is there and marked so, until
    the group has all its members; the next one begins a new group. Complete groups are forgotten at once, and so are
    those that everybody gave up; incomplete ones after `retain_s`, or earlier where they hold more than RETAINED_BYTES.

    For one event loop, by whose clock time is told.
    """

    def __init__(self, ask: Ask, retain_s: float = 600.0) -> None:
        self._ask, self._retain_s = ask, retain_s
        self._groups: dict[str, Group] = {}  # those that take members
        self._timers: dict[str, asyncio.TimerHandle] = {}  # when they are judged, or then forgotten
        self._retained: OrderedDict[str, int] = OrderedDict()  # bytes of those that were judged, the oldest first
        self._tasks: set[asyncio.Task[Any]] = set()
        self._futures: set[asyncio.Future[Reward]] = set()
        self._closed = False

    def add(
        self, samples: Sequence[Sample], spec: RewardSpec, deadline_s: float | None = None
    ) -> list[asyncio.Future[Reward]]:
        """Take samples in. Those whose reward needs no group, or one of unknown size, are judged at once with what else
        is in this call.

        Args:
            deadline_s: a comparison that has no verdict so many seconds from now has status timeout; the others of its
                group lose nothing by it. In a group of several callers the earliest deadline counts. Gathering takes
                part of it, so it should be longer than `group_timeout_s`.

        Returns:
            One future per sample, in order. To cancel it is to give the sample up; work that everybody gave up is
            cancelled. If a comparison of a group cannot be judged as it is, all futures of the group raise that error.

        Raises:
            UsageError: a sample that cannot be judged so; the message names it, and none was taken in.
            RuntimeError: the gatherer was closed.
        """
        if self._closed:
            raise RuntimeError("the gatherer was closed")
        check_samples(samples, spec)
        deadline = None if deadline_s is None else asyncio.get_running_loop().time() + deadline_s
        if spec.needs_group and spec.group_size is not None:
            futures = [self._join_group(sample, spec, deadline) for sample in samples]
        else:
            by_place: dict[int, asyncio.Future[Reward]] = {}
            for places in _group_indices(samples, spec):
                group = Group(spec, self._ask, None, self._start_task, lambda _: None)
                by_place |= {i: group.add(samples[i], deadline) for i in places}
                group.start_judging()
            futures = [by_place[i] for i in range(len(samples))]
        for future in futures:
            self._futures.add(future)
            future.add_done_callback(self._futures.discard)
        return futures

    async def close(self) -> None:
        """Give up everything: futures that are not ready are cancelled, and so is all work."""
        self._closed = True
        for identity in list(self._groups):
            self._forget_group(identity)
        for future in list(self._futures):
            future.cancel()  # as if all callers had given up: groups end their work
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join_group(self, sample: Sample, spec: RewardSpec, deadline: float | None) -> asyncio.Future[Reward]:
        identity = spec.compute_group_id(sample)
        group = self._groups.get(identity)
        if group is None:
            group = Group(
                spec, self._ask, spec.group_size, self._start_task, lambda left: self._forget_group(identity, left)
            )
            self._groups[identity] = group
            self._start_timer(spec.group_timeout_s, identity)
        future = group.add(sample, deadline)
        if group.is_full:
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
        group.start_judging()
        self._start_timer(self._retain_s, identity)
        self._retain_group(identity)

    def _retain_group(self, identity: str) -> None:
        """Count what a judged group holds, and forget the oldest where it is too much."""
        self._retained[identity] = self._groups[identity].size_bytes
        while sum(self._retained.values()) > MAX_RETAINED_BYTES:
            self._forget_group(next(iter(self._retained)))

    def _forget_group(self, identity: str, group: Group | None = None) -> None:
        """Take no more members into a group; what it has in hand goes on. With `group`, only if it is that one."""
        if identity in self._groups and group in (None, self._groups[identity]):
            del self._groups[identity]
            self._timers.pop(identity).cancel()
            self._retained.pop(identity, None)

    def _start_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
