"""The votes on one comparison: rounds of replies in one or more orders, until the outcome is decided."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flex_judge.judges.errors import EngineLostError, NotRecordedError
from flex_judge.judges.judgments import Status, Usage, Verdict
from flex_judge.judges.protocol.generation import ReplyGenerator, parse_verdict
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.protocol.voting import VoteTally, plan_next_wave, plan_orders
from flex_judge.judges.rubrics.scale import OPTIONS
from flex_judge.judges.types import Comparison

Permutation = tuple[int, ...]


class VoteLoop:
    """Holds the vote on one comparison.

    A judgment draws its votes from an endless row of them: those of draw d are the votes from number d * `votes` on. So
    k judgments by one vote each have the votes of one judgment by k, and a ledger that holds either serves both.
    """

    def __init__(
        self, comparison: Comparison, replier: ReplyGenerator, renderer: Renderer, settings: JudgeSettings
    ) -> None:
        self.comparison, self.replier, self.renderer, self.settings = comparison, replier, renderer, settings
        self.usage = Usage()
        """Of the votes that came to an end."""
        self._prompts: dict[Permutation, RenderedPrompt] = {}
        self._unrecorded: NotRecordedError | None = None
        self._skipped = comparison.sample_index * settings.votes
        # What every draw has in common: orders go on where those of the draw before ended.
        first = replace(comparison, sample_index=0) if comparison.sample_index else comparison
        self._key = f"{settings.seed}/{first.digest}"

    @property
    def first_wave_size(self) -> int:
        """How many replies are asked for at first, side by side."""
        return self._plan_next_wave([])

    async def render_prompt(self, order: Permutation) -> RenderedPrompt:
        """The prompt that shows the responses in that order."""
        if order not in self._prompts:
            shown = self.comparison.permute_responses(order)
            turns = build_judge_turns(shown, self.replier.rubric, self.settings.reason_first)
            render = (turns, self.replier.prefill, self.settings.media)
            if self.comparison.has_media:  # decoding takes a while
                self._prompts[order] = await asyncio.to_thread(self.renderer.render, *render)
            else:
                self._prompts[order] = self.renderer.render(*render)
        return self._prompts[order]

    async def measure_longest_prompt(self) -> int:
        """Tokens of the longest prompt that a vote may need. The same responses in another order can take a few more:
        what stands beside the end of a text decides how it is cut into tokens."""
        shown = {order for number in range(self.settings.votes) for order in self._plan_orders(number)}
        return max([(await self.render_prompt(order)).length for order in shown])

    async def collect_votes(self) -> list[list[Verdict]]:
        """Vote.

        Returns:
            The rounds, each with one verdict per order. Scores are in the order of the comparison's responses.
        """
        rounds: list[list[Verdict]] = []
        loop = asyncio.get_running_loop()
        deadline = None if self.settings.deadline_s is None else loop.time() + self.settings.deadline_s
        per_round = len(self._plan_orders(0))
        while wave := self._plan_next_wave(rounds):
            if rounds and (self._unrecorded or (deadline is not None and loop.time() >= deadline)):
                break
            numbers = range(len(rounds), len(rounds) + wave // per_round)
            rounds += await self._cast_wave(
                [(i, order) for i in numbers for order in self._plan_orders(i)], per_round, deadline
            )
        if self._unrecorded and not any(verdict.scores for verdicts in rounds for verdict in verdicts):
            raise self._unrecorded
        return rounds

    def _plan_next_wave(self, rounds: list[list[Verdict]]) -> int:
        """How many replies to ask for next, in whole rounds; 0 when the outcome is decided."""
        n = len(self.comparison.responses)
        cast = [verdict for verdicts in rounds for verdict in verdicts]
        # A batch is ranked by its mean scores, which every vote moves: like a single score it has no early end.
        options = tuple(OPTIONS) if self.replier.rubric.has_options else ()
        per_round = len(self._plan_orders(0))
        tally = VoteTally.from_votes(cast, n if n == 2 else 1, options)
        wave = plan_next_wave(tally, self.settings.votes * per_round, self.settings.vote_confidence)
        return -(-wave // per_round) * per_round

    async def _cast_wave(
        self, votes: list[tuple[int, Permutation]], per_round: int, deadline: float | None
    ) -> list[list[Verdict]]:
        """Cast votes side by side; those that are not in by the deadline are given up."""
        tasks = [asyncio.create_task(self._cast_vote(i, order)) for i, order in votes]
        try:
            left = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            done, late = await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()  # a lost engine, or a bug, is not this vote's alone
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        verdicts = [
            self._make_timeout_verdict(order) if task in late else task.result()
            for task, (_, order) in zip(tasks, votes, strict=True)
        ]
        return [verdicts[k : k + per_round] for k in range(0, len(verdicts), per_round)]

    async def _cast_vote(self, number: int, order: Permutation) -> Verdict:
        try:
            reply = await self.replier.generate_reply(
                await self.render_prompt(order), sample_index=self._skipped + number
            )
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Nobody gave this vote up: what the engine had under way was cancelled within the engine.
            raise EngineLostError("the engine dropped a request") from None
        except NotRecordedError as e:
            # In a replay: this vote was given up when the others were recorded, or nothing was recorded.
            self._unrecorded = e
            return self._make_timeout_verdict(order)
        self.usage += reply.usage
        shown = parse_verdict(reply, self.replier.rubric, len(order))
        # Seen from the order that was shown, the given order is the inverse permutation.
        given = tuple(order.index(i) for i in range(len(order)))
        return replace(shown.permute_responses(given), order=order)

    def _make_timeout_verdict(self, order: Permutation) -> Verdict:
        return Verdict(Status.TIMEOUT, order=order, detail=f"no verdict within {self.settings.deadline_s} s")

    def _plan_orders(self, number: int) -> tuple[Permutation, ...]:
        return plan_orders(len(self.comparison.responses), self.settings.order, self._skipped + number, self._key)
