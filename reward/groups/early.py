"""Matches between the members of a group that start while other members are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from flex_judge.judges.judgments import Judgment, Status
from flex_judge.reward.groups.match import Match
from flex_judge.reward.groups.pairing import Roster, make_plan
from flex_judge.reward.groups.schedule import MatchSchedule, StartTask

if TYPE_CHECKING:
    from flex_judge.judges.types import Comparison
    from flex_judge.reward.groups.methods import GroupContext, JudgeFunction
    from flex_judge.reward.types import Sample


class TimedJudge:
    """Judge function with a deadline that can be set while comparisons are in progress."""

    def __init__(self, judge: JudgeFunction, deadline: float | None = None) -> None:
        """Wrap a judge function.

        Args:
            judge: judges one comparison.
            deadline: time on the event loop's clock after which a comparison without a verdict gets the status timeout.
        """
        self._judge, self._deadline = judge, deadline
        self._limits: set[asyncio.Timeout] = set()  # of the comparisons in progress

    def set_deadline(self, deadline: float | None) -> None:
        """Set the deadline of the comparisons in progress and of later ones."""
        self._deadline = deadline
        for limit in self._limits:
            limit.reschedule(deadline)

    async def __call__(self, comparison: Comparison) -> Judgment:
        """Judge one comparison."""
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    return await self._judge(comparison)
                finally:
                    self._limits.remove(limit)
        except TimeoutError:
            if not limit.expired():  # a TimeoutError of the judge itself
                raise
            return Judgment.from_failure(comparison.id, Status.TIMEOUT, "no verdict before the deadline of the request")


class EarlyMatches:
    """Members of a group that still waits for others, and their matches.

    Members have numbers in order of arrival, which stay the same if others leave.
    """

    def __init__(
        self,
        context: GroupContext,
        samples: list[Sample],
        judge: TimedJudge,
        *,
        start_task: StartTask,
        on_error: Callable[[BaseException], None],
    ) -> None:
        """Create it without members.

        Args:
            context: settings of the matches, with `samples` and `judge`. The method must be one of `PLANNED_METHODS`.
            samples: empty list, which takes the members.
            judge: judges one comparison.
            start_task: creates the tasks of the matches.
            on_error: called with the first error of a match.
        """
        self._context, self._samples, self._judge = context, samples, judge
        roster, plan = Roster(context.problems), make_plan(context.spec.method)
        self._schedule = MatchSchedule(plan, roster, context.play_match, start_task, on_error)

    def add_members(self, samples: Sequence[Sample]) -> range:
        """Add members that arrived together, and start the matches that become possible; returns their numbers."""
        numbers = range(len(self._samples), len(self._samples) + len(samples))
        self._samples += samples
        self._context.problems.update((n, self._samples[n].problem) for n in numbers if self._samples[n].problem)
        # A member that cannot be judged takes no place in the order, so that the others meet as they would without it.
        self._schedule.add_members(
            {n: self._context.compute_digest(n) for n in numbers if n not in self._context.problems}
        )
        return numbers

    def withdraw_member(self, number: int) -> None:
        """Remove a member whose caller gave up, with its matches."""
        self._samples[number] = replace(self._samples[number], response="", problem="its caller gave up")
        self._context.problems[number] = self._samples[number].problem
        self._schedule.withdraw_member(number)

    async def play_to_end(self, numbers: Sequence[int], deadline: float | None) -> list[Match]:
        """Play all matches of the present members.

        Args:
            numbers: numbers of the present members.
            deadline: time after which a comparison without a verdict gets the status timeout.

        Returns:
            All matches, also those of members that cannot be judged; their members are places in `numbers`.
        """
        self._judge.set_deadline(deadline)
        matches = await self._schedule.play_to_end()
        unreadable = [number for number in numbers if self._samples[number].problem]
        matches += [Match((number,), None, problems=(self._samples[number].problem,)) for number in unreadable]
        index = {number: i for i, number in enumerate(numbers)}
        return [
            replace(match, members=tuple(index[number] for number in match.members if number is not None))
            for match in map(self._context.void_invalid, matches)
        ]

    def cancel_matches(self) -> None:
        """Cancel all running matches."""
        self._schedule.cancel_matches()
