"""One group from its first member to the rewards: it waits for members, is judged, and judges latecomers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from flex_judge.judges.media.types import Media
from flex_judge.judges.types import Response, split_content
from flex_judge.reward.groups.early import EarlyMatches, TimedJudge
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.methods import GroupContext, JudgeFunction, judge_group, name_comparisons
from flex_judge.reward.groups.pairing import PLANNED_METHODS
from flex_judge.reward.groups.rewards import build_rewards
from flex_judge.reward.groups.schedule import StartTask
from flex_judge.reward.types import GroupInfo, Reward, RewardSpec, Sample

SOLO_METHODS = ("pointwise", "baseline")
"""Methods that judge a completion without the other completions.

Its judging starts as soon as it arrives; only the statistics wait for the group."""
BYTES_PER_RECORD = 1024
"""Assumed memory for one member or one match, without texts and media."""


@dataclass(eq=False)
class Member:
    """A sample in a group, with the future of its reward."""

    sample: Sample
    future: asyncio.Future[Reward]
    deadline: float | None
    """Time on the event loop's clock after which a comparison without a verdict gets the status timeout."""
    solo_task: asyncio.Task[list[Match]] | None
    """Judging of this member alone, see SOLO_METHODS."""
    number: int | None = None
    """Number of the member in the early matches of its group; None before it takes part in them."""

    def cancel_work(self) -> None:
        """Cancel the judging of this member alone."""
        if self.solo_task is not None:
            self.solo_task.cancel()


class Group:
    """Group of samples that are judged together.

    `add` adds members; `start_judging` stops waiting for more. Members are judged in waves: first all members that are
    present, then those that arrived during the previous wave, or later. A latecomer never changes a reward that was
    already returned.

    Work that needs no missing member starts as soon as possible: the judging of a completion alone, and the matches
    that a plan lists (see `flex_judge.reward.groups.pairing`). A knock-out waits for the complete group, because who
    meets whom, and so who is eliminated, must not depend on who arrived first. A listwise comparison needs all members.

    A member whose future is cancelled before its wave starts leaves the group; its matches are dropped, and those in
    progress are cancelled. A member of the current wave stays as an opponent; if all futures of the wave are cancelled,
    the wave is cancelled.
    """

    def __init__(
        self,
        spec: RewardSpec,
        judge: JudgeFunction,
        expected_size: int | None,
        start_task: StartTask,
        on_end: Callable[[Group], None],
    ) -> None:
        """Create an empty group.

        Args:
            spec: how the members are judged.
            judge: judges one comparison.
            expected_size: number of members of the complete group; None if unknown.
            start_task: creates the tasks of the group.
            on_end: called when nobody needs the group anymore: all callers gave up, or its work failed.
        """
        self.spec, self.judge, self.expected_size = spec, judge, expected_size
        self._start_task, self._on_end = start_task, on_end
        self.members: list[Member] = []
        self.closed = False
        """Whether a new member is a latecomer."""
        self._matches: list[Match] = []
        # The members are ordered: judged ones first, then those of the current wave, then the waiting ones.
        self._num_judged = 0
        self._wave_size = 0
        self._wave_task: asyncio.Task[tuple[list[Match], list[Reward]]] | None = None
        self._early: EarlyMatches | None = None  # until the first wave starts
        # Without a group size, all members arrive at once and nothing is gained by starting early.
        self._starts_early = spec.method in PLANNED_METHODS and expected_size is not None

    @property
    def is_full(self) -> bool:
        """Whether all expected members are present."""
        return len(self.members) == self.expected_size

    @property
    def size_bytes(self) -> int:
        """Estimated memory use: the shared prompt, all responses and baselines, members and matches."""
        samples = [member.sample for member in self.members]
        contents: list[Response] = [message.content for sample in samples[:1] for message in sample.prompt]
        contents += [content for s in samples for content in (s.response, s.baseline) if content is not None]
        num_records = len(samples) + max(len(samples), len(self._matches))
        return sum(map(_estimate_bytes, contents)) + BYTES_PER_RECORD * num_records

    def add(self, sample: Sample, deadline: float | None = None) -> asyncio.Future[Reward]:
        """Add a member; the returned future gets its reward when the group has been judged."""
        self._drop_cancelled_members()
        if self.members:  # share one prompt object, so that the group holds its media only once
            sample = replace(sample, prompt=self.members[0].sample.prompt)
        future: asyncio.Future[Reward] = asyncio.get_running_loop().create_future()
        solo_task = None
        if self.spec.method in SOLO_METHODS:
            solo_task = self._start_task(judge_group([sample], self.spec, TimedJudge(self.judge, deadline)))
            solo_task.add_done_callback(self._handle_solo_end)
        self.members.append(Member(sample, future, deadline, solo_task))
        future.add_done_callback(self._handle_future_done)
        if self.closed:
            self.start_judging()
        elif self._starts_early:
            # Members that arrive together are ordered by their contents, so they are collected first.
            asyncio.get_running_loop().call_soon(self._add_early_members)
        return future

    def start_judging(self) -> None:
        """Judge the present members; later ones are latecomers."""
        self.closed = True
        if self._wave_task is None:
            self._wave_task = self._start_task(self._judge_wave())
            self._wave_task.add_done_callback(self._handle_wave_end)

    def _add_early_members(self) -> None:
        """Let the new members take part in early matches."""
        members = [m for m in self.members if m.number is None and not m.future.done()]
        if not members or (self.closed and self._early is None):
            return
        if self._early is None:
            samples: list[Sample] = []
            judge = TimedJudge(self.judge)
            name = name_comparisons(self.spec, members[0].sample)
            context = GroupContext(samples, self.spec, judge, frozenset(), (), name)
            self._early = EarlyMatches(context, samples, judge, start_task=self._start_task, on_error=self._fail_all)
        numbers = self._early.add_members([member.sample for member in members])
        for member, number in zip(members, numbers, strict=True):
            member.number = number

    async def _judge_wave(self) -> tuple[list[Match], list[Reward]]:
        # Members are counted here and not in `start_judging`, so that latecomers of one call share one wave.
        self._drop_cancelled_members()
        samples = [member.sample for member in self.members]
        wave = range(self._num_judged, len(samples))
        self._wave_size = len(wave)
        if not wave:
            return self._matches, []
        members = [self.members[i] for i in wave]
        deadlines = [m.deadline for m in members if m.deadline is not None and not m.future.done()]
        deadline = min(deadlines, default=None)
        if self.spec.method in SOLO_METHODS:
            matches = list(self._matches)
            for i, member in zip(wave, members, strict=True):
                assert member.solo_task is not None
                matches += [_reindex_match(i, match) for match in await member.solo_task]
        elif self._early is not None:
            self._add_early_members()  # the members of this moment
            early, self._early = self._early, None
            matches = await early.play_to_end([m.number for m in members if m.number is not None], deadline)
        else:
            judge = TimedJudge(self.judge, deadline)
            matches = await judge_group(samples, self.spec, judge, wave, self._matches)
        info = GroupInfo(len(samples), self.expected_size, late=self._num_judged > 0)
        return matches, build_rewards(matches, self.spec, info, wave)

    def _handle_wave_end(self, task: asyncio.Task[tuple[list[Match], list[Reward]]]) -> None:
        self._wave_task = None
        wave = slice(self._num_judged, self._num_judged + self._wave_size)
        self._wave_size = 0
        if task.cancelled():  # all callers of the wave gave up
            for member in self.members[wave]:
                member.future.cancel()
                member.cancel_work()
            del self.members[wave]
        elif (error := task.exception()) is not None:
            self._fail_all(error)
        else:
            matches, rewards = task.result()
            # Latecomers need only scores and outcomes, and reasoning is most of a judgment's size.
            self._matches = [match.strip_text() for match in matches]
            self._num_judged = wave.stop
            for member, reward in zip(self.members[wave], rewards, strict=True):
                if not member.future.done():
                    member.future.set_result(reward)
        if len(self.members) > self._num_judged:
            self.start_judging()

    def _handle_solo_end(self, task: asyncio.Task[list[Match]]) -> None:
        # Fail at once: otherwise the callers would wait for the whole group before they see the error.
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail_all(error)

    def _fail_all(self, error: BaseException) -> None:
        """Raise an error in the futures of all members."""
        members, self.members, self._num_judged, self._wave_size = self.members, [], 0, 0
        for member in members:
            member.cancel_work()
            if not member.future.done():
                member.future.set_exception(error)
                member.future.exception()  # marks the error as retrieved: asyncio must not log it for absent callers
        if self._early is not None:
            self._early.cancel_matches()
        if self._wave_task is not None:
            self._wave_task.cancel()
        self._on_end(self)

    def _handle_future_done(self, future: asyncio.Future[Reward]) -> None:
        if not future.cancelled():
            return
        self._drop_cancelled_members()
        wave = self.members[self._num_judged : self._num_judged + self._wave_size]
        if self._wave_task is not None and wave and all(member.future.done() for member in wave):
            self._wave_task.cancel()
        if all(member.future.cancelled() for member in self.members):
            self._on_end(self)

    def _drop_cancelled_members(self) -> None:
        """Drop members whose futures were cancelled before their wave started."""
        for member in self.members[self._num_judged + self._wave_size :]:
            if member.future.cancelled():
                self.members.remove(member)
                member.cancel_work()
                if self._early is not None and member.number is not None:
                    self._early.withdraw_member(member.number)


def _reindex_match(index: int, match: Match) -> Match:
    """Replace the member index of a match that was played in a group of one."""
    return replace(match, members=tuple(None if member is None else index for member in match.members))


def _estimate_bytes(content: Response) -> int:
    return sum(len(part) if isinstance(part, str) else _count_media_bytes(part) for part in split_content(content))


def _count_media_bytes(media: Media) -> int:
    return len(media.data) + sum(map(_count_media_bytes, media.frames))
