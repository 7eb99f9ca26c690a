"""One group on its way from its callers to their rewards: it gathers, is judged, and judges latecomers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Comparison, Content, split_content
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.methods import Ask, judge_group
from flex_judge.reward.groups.rewards import build_rewards
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

T = TypeVar("T")
SOLO_METHODS = ("pointwise", "baseline")
"""Methods by which a completion is judged without the others: it is asked about as soon as it comes, and only the
figures wait for the group."""


class StartTask(Protocol):
    """Make a task and hold on to it until it ends."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> asyncio.Task[T]: ...


@dataclass(eq=False)
class Member:
    sample: Sample
    future: asyncio.Future[Reward]
    deadline: float | None
    """By the event loop's clock; a comparison without a verdict by then has status timeout."""
    alone: asyncio.Task[list[Match]] | None
    """What is asked about it without the others, see ALONE."""

    def cancel_work(self) -> None:
        if self.alone is not None:
            self.alone.cancel()


class Group:
    """Members come by `add`; `judge` says that no more of them are waited for.

    Members are judged in waves: those that gathered, then whoever came while the wave before was judged, or later.
    Nothing that a caller was told changes when a latecomer comes. A member whose caller gave up (its future was
    cancelled) before its wave began leaves; one that is being judged stays as an opponent, unless nobody waits for its
    wave any more: then the wave is cancelled.
    """

    def __init__(
        self, spec: RewardSpec, ask: Ask, wanted: int | None, start: StartTask, leave: Callable[[Group], None]
    ) -> None:
        """Args:
        wanted: how many members it should have; None where that is not known.
        start: makes its tasks.
        leave: told when the group is of no more use to anybody: all gave up, or its work failed.
        """
        self.spec, self.ask, self.wanted, self._start, self._leave = spec, ask, wanted, start, leave
        self.members: list[Member] = []
        self.closed = False
        """Whether whoever comes now is late."""
        self._matches: list[Match] = []
        self._judged = 0  # members that have been judged, the first ones
        self._in_hand = 0  # members that are being judged, the next ones
        self._work: asyncio.Task[tuple[list[Match], list[Reward]]] | None = None

    @property
    def is_full(self) -> bool:
        return len(self.members) == self.wanted

    @property
    def size_bytes(self) -> int:
        """About what it holds: its one prompt, what its members wrote, and a KiB for each member and comparison."""
        samples = [member.sample for member in self.members]
        contents = [message.content for sample in samples[:1] for message in sample.prompt]
        contents += [content for s in samples for content in (s.response, s.baseline) if content is not None]
        records = len(samples) * (len(samples) if self.spec.method == "round_robin" else 2)
        return sum(map(_estimate_bytes, contents)) + 1024 * records

    def add(self, sample: Sample, deadline: float | None = None) -> asyncio.Future[Reward]:
        """One more member; its reward comes when the group has been judged."""
        self._drop_cancelled_members()
        if self.members:  # equal prompts are one, so that a group holds the media in it once
            sample = replace(sample, prompt=self.members[0].sample.prompt)
        future: asyncio.Future[Reward] = asyncio.get_running_loop().create_future()
        alone = None
        if self.spec.method in SOLO_METHODS:
            alone = self._start(judge_group([sample], self.spec, limit_by_deadline(self.ask, deadline)))
            alone.add_done_callback(self._handle_solo_end)
        member = Member(sample, future, deadline, alone)
        self.members.append(member)
        future.add_done_callback(self._handle_future_done)
        if self.closed:
            self.start_judging()
        return future

    def start_judging(self) -> None:
        """Judge the members that are there; from now on, others are late."""
        self.closed = True
        if self._work is None:
            self._work = self._start(self._judge_wave())
            self._work.add_done_callback(self._handle_wave_end)

    async def _judge_wave(self) -> tuple[list[Match], list[Reward]]:
        # Told only now, so that latecomers who come in one call are in one wave.
        self._drop_cancelled_members()
        samples = [member.sample for member in self.members]
        wave = range(self._judged, len(samples))
        self._in_hand = len(wave)
        if not wave:
            return self._matches, []
        members = [self.members[i] for i in wave]
        if self.spec.method in SOLO_METHODS:
            matches = list(self._matches)
            for i, member in zip(wave, members, strict=True):
                assert member.alone is not None
                matches += [_reindex_match(i, match) for match in await member.alone]
        else:
            waiting = [m.deadline for m in members if m.deadline is not None and not m.future.done()]
            ask = limit_by_deadline(self.ask, min(waiting, default=None))
            matches = await judge_group(samples, self.spec, ask, wave, self._matches)
        note = GroupInfo(len(samples), self.wanted, late=self._judged > 0)
        return matches, build_rewards(matches, self.spec, note, wave)

    def _handle_wave_end(self, work: asyncio.Task[tuple[list[Match], list[Reward]]]) -> None:
        self._work = None
        done = slice(self._judged, self._judged + self._in_hand)
        self._in_hand = 0
        if work.cancelled():  # nobody waits for it any more
            for member in self.members[done]:
                member.future.cancel()
                member.cancel_work()
            del self.members[done]
        elif (error := work.exception()) is not None:
            self._fail_all(error)
        else:
            matches, rewards = work.result()
            self._matches = [match.strip_text() for match in matches]
            self._judged = done.stop
            for member, reward in zip(self.members[done], rewards, strict=True):
                if not member.future.done():
                    member.future.set_result(reward)
        if len(self.members) > self._judged:
            self.start_judging()

    def _handle_solo_end(self, alone: asyncio.Task[list[Match]]) -> None:
        # The group would find out when it is judged; its callers need not wait until then.
        if not alone.cancelled() and (error := alone.exception()) is not None:
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        """Everybody who waits gets the error."""
        members, self.members, self._judged, self._in_hand = self.members, [], 0, 0
        for member in members:
            member.cancel_work()
            if not member.future.done():
                member.future.set_exception(error)
                member.future.exception()  # one caller who looks is enough: asyncio need not complain of the others
        if self._work is not None:
            self._work.cancel()
        self._leave(self)

    def _handle_future_done(self, future: asyncio.Future[Reward]) -> None:
        if not future.cancelled():
            return
        self._drop_cancelled_members()
        in_hand = self.members[self._judged : self._judged + self._in_hand]
        if self._work is not None and in_hand and all(member.future.done() for member in in_hand):
            self._work.cancel()
        if all(member.future.cancelled() for member in self.members):
            self._leave(self)

    def _drop_cancelled_members(self) -> None:
        """Drop the members whose callers gave up before they were being judged."""
        begun = self._judged + self._in_hand
        for member in self.members[begun:]:
            if member.future.cancelled():
                self.members.remove(member)
                member.cancel_work()


def limit_by_deadline(ask: Ask, deadline: float | None) -> Ask:
    """The same, but what has no verdict by the deadline (of the event loop's clock) has status timeout."""

    async def asked(comparison: Comparison) -> Judgment:
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return await ask(comparison)
        except TimeoutError:
            if not limit.expired():
                raise
            return Judgment.from_failure(comparison.id, Status.TIMEOUT, "no verdict before the deadline of the request")

    return asked


def _reindex_match(index: int, match: Match) -> Match:
    """The match of one who was judged as a group of its own."""
    return replace(match, members=tuple(None if member is None else index for member in match.members))


def _estimate_bytes(content: Content) -> int:
    """Bytes of a content, about."""
    return sum(len(part) if isinstance(part, str) else _count_media_bytes(part) for part in split_content(content))


def _count_media_bytes(media: Media) -> int:
    return len(media.data) + sum(map(_count_media_bytes, media.frames))
