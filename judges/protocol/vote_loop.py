"""The vote loop: judge one comparison in waves of replies until the outcome is decided."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from flex_judge.judges.errors import EngineLostError, NotRecordedError
from flex_judge.judges.judgments import Status, Usage, Verdict
from flex_judge.judges.protocol.generation import ReplyGenerator
from flex_judge.judges.protocol.parsing import parse_verdict
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.protocol.voting import VoteTally, plan_next_wave, plan_orders
from flex_judge.judges.rubrics.scale import OPTIONS
from flex_judge.judges.types import Comparison

Permutation = tuple[int, ...]
"""Reading order of the responses: place k shows response `permutation[k]` of the comparison."""
LONG_TEXT = 50_000
"""Number of characters above which a comparison is rendered in a thread."""


class VoteLoop:
    """Collects the votes on one comparison.

    Rounds are numbered across sample indices: sample i uses the rounds from i * `votes` on. So k judgments with one
    vote each consist of the same votes as one judgment with k votes, and a ledger of either replays both.
    """

    def __init__(
        self, comparison: Comparison, reply_generator: ReplyGenerator, renderer: Renderer, settings: JudgeSettings
    ) -> None:
        self.comparison = comparison
        self.reply_generator = reply_generator
        self.renderer = renderer
        self.settings = settings
        self.usage = Usage()
        """Token counts of all votes that completed."""
        self._prompts: dict[Permutation, RenderedPrompt] = {}
        self._unrecorded: NotRecordedError | None = None
        self._first_round = comparison.sample_index * settings.votes
        # The key leaves the sample index out, so that random orders continue where the previous sample's ended.
        first_sample = replace(comparison, sample_index=0) if comparison.sample_index else comparison
        self._order_key = f"{settings.seed}/{first_sample.digest}"

    @property
    def first_wave_size(self) -> int:
        """Number of replies that are requested at once at the start."""
        return self._plan_next_wave([])

    def describe_media(self) -> dict[str, list[str]]:
        """Return `media_notes` for the provenance: what a limit or a damaged file left out; empty without any."""
        media = [medium for prompt in self._prompts.values() for medium in prompt.media]
        notes = list(dict.fromkeys(note for medium in media for note in medium.notes))
        return {"media_notes": notes} if notes else {}

    async def render_prompt(self, order: Permutation) -> RenderedPrompt:
        """Render the prompt that shows the responses in the given order."""
        if order not in self._prompts:
            self._prompts[order] = await self.render_comparison(self.comparison.permute_responses(order))
        return self._prompts[order]

    async def render_comparison(self, comparison: Comparison) -> RenderedPrompt:
        """Render the prompt of a comparison, with its responses in their order."""
        # Decoding media and tokenizing long texts take long enough to block the event loop.
        if comparison.has_media or comparison.text_length > LONG_TEXT:
            return await asyncio.to_thread(self._render_turns, comparison)
        return self._render_turns(comparison)

    def _render_turns(self, comparison: Comparison) -> RenderedPrompt:
        turns = build_judge_turns(comparison, self.reply_generator.rubric, self.settings.reason_first)
        return self.renderer.render(turns, self.reply_generator.prefill, self.settings.media)

    async def measure_longest_prompt(self) -> int:
        """Return the token count of the longest prompt that any vote may need.

        Prompts of different orders differ by a few tokens, because neighbouring text changes how a tokenizer splits
        the ends of a response.
        """
        orders = {order for number in range(self.settings.votes) for order in self._plan_orders(number)}
        return max([(await self.render_prompt(order)).length for order in orders])

    async def collect_votes(self) -> list[list[Verdict]]:
        """Cast votes until the outcome is decided, all votes are cast or the deadline has passed.

        Returns:
            Rounds of votes, one verdict per reading order. Scores are in the order of the comparison's responses.

        Raises:
            EngineLostError: the engine died.
            NotRecordedError: in a replay, none of the votes is in the ledger.
        """
        rounds: list[list[Verdict]] = []
        loop = asyncio.get_running_loop()
        deadline = None if self.settings.deadline_s is None else loop.time() + self.settings.deadline_s
        per_round = len(self._plan_orders(0))
        while wave_size := self._plan_next_wave(rounds):
            is_late = deadline is not None and loop.time() >= deadline
            if rounds and (is_late or self._unrecorded):
                break
            numbers = range(len(rounds), len(rounds) + wave_size // per_round)
            votes = [(number, order) for number in numbers for order in self._plan_orders(number)]
            verdicts = await self._cast_wave(votes, deadline)
            rounds += [verdicts[k : k + per_round] for k in range(0, len(verdicts), per_round)]
        # A recorded run may have dropped late votes, so a replay fails only if nothing at all was recorded.
        if self._unrecorded and not any(verdict.scores for verdicts in rounds for verdict in verdicts):
            raise self._unrecorded
        return rounds

    def _plan_next_wave(self, rounds: list[list[Verdict]]) -> int:
        """Return how many replies to request next, in whole rounds; 0 if the outcome is decided."""
        responses = len(self.comparison.responses)
        verdicts = [verdict for round_verdicts in rounds for verdict in round_verdicts]
        # Only a preference on a pair can be decided early: pointwise scores and listwise rankings come from the mean
        # scores, which every vote moves.
        deciding_responses = responses if responses == 2 else 1
        options = tuple(OPTIONS) if self.reply_generator.rubric.has_options else ()
        tally = VoteTally.from_votes(verdicts, deciding_responses, options)
        per_round = len(self._plan_orders(0))
        wave_size = plan_next_wave(tally, self.settings.votes * per_round, self.settings.vote_confidence)
        return -(-wave_size // per_round) * per_round  # rounded up to whole rounds

    async def _cast_wave(self, votes: list[tuple[int, Permutation]], deadline: float | None) -> list[Verdict]:
        """Cast votes concurrently; those that miss the deadline are cancelled and get status timeout.

        Args:
            votes: round number and reading order of each vote.
            deadline: event loop time at which to stop waiting; None waits for all votes.
        """
        tasks = [asyncio.create_task(self._cast_vote(number, order)) for number, order in votes]
        try:
            timeout = None if deadline is None else max(0.0, deadline - asyncio.get_running_loop().time())
            done, late = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()  # Raises: a lost engine or a bug concerns the whole judgment, not this vote alone.
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [
            self._make_timeout_verdict(order) if task in late else task.result()
            for task, (_, order) in zip(tasks, votes, strict=True)
        ]

    async def _cast_vote(self, number: int, order: Permutation) -> Verdict:
        """Cast one vote and return its verdict in the order of the comparison's responses."""
        try:
            prompt = await self.render_prompt(order)
            reply = await self.reply_generator.generate_reply(prompt, sample_index=self._first_round + number)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Nobody cancelled this vote, so the engine cancelled the request itself.
            raise EngineLostError("the engine dropped a request") from None
        except NotRecordedError as e:
            # In a replay, a missing reply is one that was late when the others were recorded, or nothing was recorded.
            self._unrecorded = e
            return self._make_timeout_verdict(order)
        self.usage += reply.usage
        verdict = parse_verdict(reply, self.reply_generator.rubric, len(order))
        # The inverse permutation maps the reading order back to the comparison's order.
        inverse = tuple(order.index(i) for i in range(len(order)))
        return replace(verdict.permute_responses(inverse), order=order)

    def _make_timeout_verdict(self, order: Permutation) -> Verdict:
        return Verdict(Status.TIMEOUT, order=order, detail=f"no verdict within {self.settings.deadline_s} s")

    def _plan_orders(self, number: int) -> tuple[Permutation, ...]:
        """Return the reading orders of a round of this judgment."""
        round_number = self._first_round + number
        return plan_orders(len(self.comparison.responses), self.settings.order, round_number, self._order_key)
