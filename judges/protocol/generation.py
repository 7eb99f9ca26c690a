"""One reply of the judge: thinking within a budget, then an answer; an answer that does not come is asked for under a
grammar. The same cut that ends thinking that runs out of budget, made the other way, is the "Wait" of budget forcing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from flex_judge.judges.engines.base import Engine, Generation, Sampling
from flex_judge.judges.errors import VerdictParseError
from flex_judge.judges.judgments import Status, Usage, Verdict
from flex_judge.judges.protocol.expected_score import AnswerTokens, distribution, moments
from flex_judge.judges.protocol.parsing import after_thinking, label_scores, parse_answer, split_answer_first
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, answer_regex
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.rubrics.rubric import Rubric

WAIT = "Wait"
"""What is written instead of the end of the thinking (arXiv 2501.19393)."""


@dataclass(frozen=True)
class Reply:
    """A reply as it was made."""

    thinking: str
    answer: str
    """All that the judge said outside of its thinking, with the `<answer>` that we may have written for it."""
    cut: bool
    """Whether the answer ran out of tokens."""
    forced_answer: str | None = None
    """Why the answer was asked for under a grammar: `budget`, `early_end`, `no_answer`, or None."""
    num_waits: int = 0
    usage: Usage = field(default_factory=Usage)
    places: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Index in `answer` of each answer -> the probability of every answer at that place."""


def read_verdict(reply: Reply, rubric: Rubric, responses: int) -> Verdict:
    """What a reply says, for the responses in the order in which the judge read them. Pure."""
    reasoning = reply.thinking.strip().removeprefix(THINK_OPEN).strip()
    told = Verdict(Status.OK, reasoning=reasoning, forced_answer=reply.forced_answer, num_waits=reply.num_waits)
    if reply.cut and reply.forced_answer is None:
        return replace(told, status=Status.TRUNCATED, detail="the answer ran out of tokens")
    try:
        reading = parse_answer(reply.answer, responses, rubric)
    except VerdictParseError as e:
        status = Status.TRUNCATED if reply.cut else Status.UNPARSEABLE
        return replace(told, status=status, detail=str(e))
    told = replace(told, scores=reading.scores, choice=reading.choice)
    found = [reply.places[place] for place in reading.places if place in reply.places]
    if len(found) < len(reading.places):
        return told
    known = [moments(probabilities, label_scores(rubric)) for probabilities in found]
    means = tuple(m for mean, _ in known for m in mean)
    return replace(told, expected_scores=means, deviations=tuple(d for _, deviation in known for d in deviation))


class Replier:
    """Has one engine reply to judge's prompts with one number of responses under one rubric."""

    def __init__(
        self, engine: Engine, renderer: Renderer, settings: JudgeSettings, rubric: Rubric, responses: int
    ) -> None:
        self.engine, self.renderer, self.settings = engine, renderer, settings
        self.rubric, self.responses = rubric, responses
        self.room = settings.answer_room(responses)
        self.answers = AnswerTokens(tuple(label_scores(rubric)), renderer.encode_untrusted)
        self.closing = tuple(renderer.encode_trusted(f"\n{THINK_CLOSE}{ANSWER_OPEN}"))
        self.opening = tuple(renderer.encode_trusted(ANSWER_OPEN))
        self.thinking = tuple(renderer.encode_trusted(f"{THINK_OPEN}\n"))
        self.wait = tuple(renderer.encode_trusted(WAIT))

    @property
    def prefill(self) -> str:
        """What the reply is made to begin with. One that answers first does not begin with its thinking."""
        if self.settings.prefill is not None:
            return self.settings.prefill
        return self.engine.profile.prefill if self.settings.reason_first else ""

    @cached_property
    def needed(self) -> int:
        """The most tokens that a reply can take up after its prompt."""
        ours = max(len(self.closing), len(self.opening) + len(self.thinking))
        # An answer that was not given, but whose probability is asked for, may be longer than the one that was.
        answer = max(len(self.renderer.encode_untrusted(f" {label}")) for label in label_scores(self.rubric))
        # Where the answer comes last, what was said in its place is kept before the one that is asked for.
        rooms = 1 + (self.settings.reason_first and self.settings.forced_answer)
        return self.settings.max_think_tokens + ours + rooms * self.room + answer

    async def reply(self, prompt: RenderedPrompt, sample_index: int) -> Reply:
        """Make a reply. `sample_index` tells apart the replies to one prompt."""
        work = _Work(self, prompt, sample_index)
        return await (work.reason_first() if self.settings.reason_first else work.answer_first())


class _Work:
    """One reply in the making."""

    def __init__(self, replier: Replier, prompt: RenderedPrompt, sample_index: int) -> None:
        self.r, self.prompt, self.sample_index = replier, prompt, sample_index
        self.settings = replier.settings
        self.usage = Usage()

    async def reason_first(self) -> Reply:
        thought, last, text, num_waits = await self._think()
        if last.finish_reason == "stop":
            # The token that ends `</think>` may already begin the answer: `><` is one token to many models.
            begun = last.text.partition(THINK_CLOSE)[2]
            text = text.removesuffix(THINK_CLOSE + begun)
            # No stop string: a judge that quoted `</think><answer>...` while it thought goes on to its own verdict.
            spoken = await self._generate(thought, self.r.room, measured=True)
            # One that was cut may have quoted a verdict and not yet come to its own: that is no last word.
            said = after_thinking(begun + spoken.text)
            if self._is_verdict(said, spoken) or not self.settings.forced_answer:
                return await self._finish(thought, spoken, said, text, None, num_waits)
            if spoken.finish_reason == "length":
                spoken = await self._on(thought, spoken)
                said = after_thinking(begun + spoken.text)
                if self._is_verdict(said, spoken):
                    return await self._finish(thought, spoken, said, text, None, num_waits)
            forced_answer, context = "no_answer", thought + self.r.opening
            if (begun + spoken.text).strip():
                # After all that it said, never at its first `</think>`: if that was quoted out of a response, what
                # stands there is the verdict that the response wants, and a grammar would have it completed.
                context = thought + spoken.token_ids + self.r.closing
                text += THINK_CLOSE + begun + spoken.text
        elif not self.settings.forced_answer:
            return Reply(text, "", last.finish_reason == "length", num_waits=num_waits, usage=self.usage)
        else:
            forced_answer = "budget" if last.finish_reason == "length" else "early_end"
            context = thought + self.r.closing
        answer = await self._generate_forced_answer(context)
        return await self._finish(context, answer, ANSWER_OPEN + answer.text, text, forced_answer, num_waits)

    async def answer_first(self) -> Reply:
        context: tuple[int, ...] = ()
        answer = await self._generate(context, self.r.room, stop=THINK_OPEN, measured=True)
        # The token that ends `<think>` may already begin the thinking.
        (said, begun), forced_answer = split_answer_first(answer.text), None
        if self.settings.forced_answer and not self._is_verdict(said, answer):
            context, forced_answer = self.r.opening, "no_answer"
            answer = await self._generate_forced_answer(context)
            said, begun = ANSWER_OPEN + answer.text, ""
        places = await self._places(context, answer, said, len(said) - len(answer.text) if forced_answer else 0)
        opened = () if THINK_OPEN in answer.text else self.r.thinking
        thought = await self._generate(
            context + answer.token_ids + opened, self.settings.max_think_tokens, stop=THINK_CLOSE
        )
        cut = answer.finish_reason == "length"
        thinking = begun + thought.text.partition(THINK_CLOSE)[0]
        return Reply(thinking, said, cut, forced_answer, 0, self.usage, places)

    async def _think(self) -> tuple[tuple[int, ...], Generation, str, int]:
        """Think until `</think>`, the end of the turn or the budget, putting the end off as often as is asked.

        Returns:
            The tokens of the thinking, the last generation of them, their text, and how often the end was put off.
        """
        thought: tuple[int, ...] = ()
        num_waits = 0
        while True:
            left = self.settings.max_think_tokens - len(thought)
            last = await self._generate(thought, left, stop=THINK_CLOSE)
            if num_waits < self.settings.num_waits and last.finish_reason != "length":
                kept = thought + self._before_close(last) + self.r.wait
                if len(kept) < self.settings.max_think_tokens:
                    thought, num_waits = kept, num_waits + 1
                    continue
            thought += last.token_ids
            return thought, last, self.r.renderer.decode(thought) if num_waits else last.text, num_waits

    async def _on(self, thought: tuple[int, ...], spoken: Generation) -> Generation:
        """What was spoken after the thinking and then cut, gone on with for as long as thinking may still last."""
        left = self.settings.max_think_tokens - len(thought)
        if left <= 0:
            return spoken
        more = await self._generate(thought + spoken.token_ids, left, measured=True)
        tokens = spoken.token_ids + more.token_ids
        return replace(
            more,
            text=self.r.renderer.decode(tokens),
            token_ids=tokens,
            logprobs=(*spoken.logprobs, *more.logprobs),
        )

    def _before_close(self, thought: Generation) -> tuple[int, ...]:
        """The tokens of a thought up to its `</think>`."""
        text = thought.text.partition(THINK_CLOSE)[0]
        for n in range(len(thought.token_ids), -1, -1):
            kept = self.r.renderer.decode(thought.token_ids[:n])
            if text.startswith(kept):  # a token may hold the end of the thought and the beginning of the tag
                return thought.token_ids[:n] + tuple(self.r.renderer.encode_untrusted(text[len(kept) :]))
        raise AssertionError("no tokens decode to no text")

    def _is_verdict(self, said: str, generation: Generation) -> bool:
        try:
            parse_answer(said, self.r.responses, self.r.rubric)
        except VerdictParseError:
            return False
        return generation.finish_reason != "length"

    async def _generate_forced_answer(self, context: tuple[int, ...]) -> Generation:
        regex = answer_regex(self.r.rubric, self.r.responses)
        stop = ANSWER_CLOSE if self.r.rubric.answer_count(self.r.responses) == 1 else None
        return await self._generate(context, self.r.room, stop=stop, measured=True, regex=regex)

    async def _finish(
        self,
        context: tuple[int, ...],
        answer: Generation,
        said: str,
        thinking: str,
        forced_answer: str | None,
        num_waits: int,
    ) -> Reply:
        """The reply that says `said`, which ends with the text of `answer` or with the end of it."""
        places = await self._places(context, answer, said, len(said) - len(answer.text))
        return Reply(thinking, said, answer.finish_reason == "length", forced_answer, num_waits, self.usage, places)

    async def _places(
        self, context: tuple[int, ...], answer: Generation, said: str, offset: int
    ) -> Mapping[int, Mapping[str, float]]:
        """The distribution at each place of `said` where an answer is written; `answer` begins there at `offset`."""
        try:
            reading = parse_answer(said, self.r.responses, self.r.rubric)
        except VerdictParseError:
            return {}
        places = {}
        for place in reading.places:
            if at := self.r.answers.at(answer, place - offset, self.r.renderer.decode):
                position, labels = at
                before = context + answer.token_ids[:position]

                async def ask(prefix: tuple[int, ...], before: tuple[int, ...] = before) -> Mapping[int, float]:
                    probe = await self._generate(before + prefix, 1, measured=True)
                    return probe.logprobs[0] if probe.logprobs else {}

                taken, logprobs = answer.token_ids[position:], answer.logprobs[position:]
                if found := await distribution(labels, taken, logprobs, ask):
                    places[place] = found
        return places

    async def _generate(
        self,
        context: tuple[int, ...],
        max_tokens: int,
        stop: str | None = None,
        measured: bool = False,
        regex: str | None = None,
    ) -> Generation:
        sampling = Sampling(
            max_tokens,
            self.settings.temperature,
            self.settings.top_p,
            stop=(stop,) if stop else (),
            regex=regex,
            logprob_token_ids=self.r.answers.token_ids if measured else (),
            sample_index=self.sample_index + (self.settings.seed << 16),  # another seed asks for other replies
        )
        generation = await self.r.engine.generate(self.prompt.token_ids + context, sampling, self.prompt.media)
        self.usage += generation.usage
        return generation
