"""Start the matches of a group as soon as their pairs are known, and collect them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from flex_judge.reward.groups.match import Match, PlayMatch
    from flex_judge.reward.groups.pairing import Pair, Plan, Roster

T = TypeVar("T")


class StartTask(Protocol):
    """Function that creates a task and holds a reference to it until it ends."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> asyncio.Task[T]:
        """Create the task."""


class MatchSchedule:
    """Matches of a group whose pairs are listed by a plan. All pairs that the plan lists run concurrently.

    The first error ends the schedule: the other matches are cancelled, and `play_to_end` raises it.
    """

    def __init__(
        self,
        plan: Plan,
        roster: Roster,
        play: PlayMatch,
        start_task: StartTask = asyncio.create_task,
        on_error: Callable[[BaseException], None] = lambda _: None,
    ) -> None:
        """Create a schedule without members.

        Args:
            plan: lists the pairs that can start.
            roster: members and matches so far. `play` may add members that cannot be judged to `roster.problems`.
            play: compares two members.
            start_task: creates the tasks of the matches.
            on_error: called with the error of a match, unless the match was cancelled.
        """
        self.roster = roster
        self._plan, self._play, self._start_task, self._on_error = plan, play, start_task, on_error
        self._earlier = frozenset(roster.pairs)
        self._tasks: dict[Pair, asyncio.Task[Match]] = {}  # running matches
        self._error: BaseException | None = None
        self._match_ended = asyncio.Event()
        self._num_problems = 0  # when the plan was asked last

    def add_members(self, digests: dict[int, str]) -> None:
        """Add members that arrived together, with their digests, and start the matches that become possible."""
        self.roster.digests |= digests
        self.roster.order += sorted(digests, key=lambda member: (digests[member], member))
        self._start_matches()

    def withdraw_member(self, member: int) -> None:
        """Drop the matches of a member that was added to `roster.problems`; those in progress are cancelled."""
        for pair in self.roster.drop_pairs(member):
            if pair in self._tasks:
                self._tasks[pair].cancel()
        self._start_matches()

    async def play_to_end(self) -> list[Match]:
        """Play all matches of the present members.

        Returns:
            The matches of this schedule, in the order of their start.

        Raises:
            JudgeError: the first error of a match; the other matches are cancelled.
        """
        self.roster.closed = True
        try:
            self._start_matches()
            while self._tasks and self._error is None:
                self._match_ended.clear()
                await self._match_ended.wait()
        finally:
            tasks = self.cancel_matches()
            await asyncio.gather(*tasks, return_exceptions=True)
        if self._error is not None:
            raise self._error
        pairs = self.roster.pairs.items()
        return [match for pair, match in pairs if match is not None and pair not in self._earlier]

    def cancel_matches(self) -> list[asyncio.Task[Match]]:
        """Cancel all running matches and start no more; returns their tasks."""
        tasks = list(self._tasks.values())
        if tasks and self._error is None:
            self._error = asyncio.CancelledError()
        for task in tasks:
            task.cancel()
        return tasks

    def _start_matches(self) -> None:
        if self._error is not None:
            return
        self._num_problems = len(self.roster.problems)
        for pair in self._plan.list_pairs(self.roster):
            if pair not in self.roster.pairs:
                self.roster.start(pair)
                self._tasks[pair] = self._start_task(self._play_pair(pair))
                self._tasks[pair].add_done_callback(partial(self._handle_end, pair))

    async def _play_pair(self, pair: Pair) -> Match:
        return await self._play(*pair)

    def _handle_end(self, pair: Pair, task: asyncio.Task[Match]) -> None:
        del self._tasks[pair]
        self._match_ended.set()
        if pair not in self.roster.pairs or self._error is not None:  # withdrawn, or the schedule has ended
            _ = task.cancelled() or task.exception()  # marks an error as retrieved: asyncio must not log it
        elif task.cancelled():
            self._error = asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            self._error = error
            self.cancel_matches()
            self._on_error(error)
        else:
            self.roster.finish(pair, task.result())
            # Other plans do not depend on results, and asking for hundreds of pairs after each match takes time.
            if self._plan.uses_results or self._num_problems != len(self.roster.problems):
                self._start_matches()
