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
from flex_judge.judges.protocol.expected_score import AnswerTokens, compute_answer_distribution, compute_moments
from flex_judge.judges.protocol.parsing import extract_answer, get_label_scores, parse_answer, split_answer_first_reply
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, build_answer_regex
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


def parse_verdict(reply: Reply, rubric: Rubric, responses: int) -> Verdict:
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
    known = [compute_moments(probabilities, get_label_scores(rubric)) for probabilities in found]
    means = tuple(m for mean, _ in known for m in mean)
    return replace(told, expected_scores=means, deviations=tuple(d for _, deviation in known for d in deviation))


class ReplyGenerator:
    """Has one engine reply to judge's prompts with one number of responses under one rubric."""

    def __init__(
        self, engine: Engine, renderer: Renderer, settings: JudgeSettings, rubric: Rubric, responses: int
    ) -> None:
        self.engine, self.renderer, self.settings = engine, renderer, settings
        self.rubric, self.responses = rubric, responses
        self.room = settings.compute_answer_budget(responses)
        self.answers = AnswerTokens(tuple(get_label_scores(rubric)), renderer.encode_as_plain_text)
        self.closing = tuple(renderer.encode_with_control_tokens(f"\n{THINK_CLOSE}{ANSWER_OPEN}"))
        self.opening = tuple(renderer.encode_with_control_tokens(ANSWER_OPEN))
        self.thinking = tuple(renderer.encode_with_control_tokens(f"{THINK_OPEN}\n"))
        self.wait = tuple(renderer.encode_with_control_tokens(WAIT))

    @property
    def prefill(self) -> str:
        """What the reply is made to begin with. One that answers first does not begin with its thinking."""
        if self.settings.prefill is not None:
            return self.settings.prefill
        return self.engine.profile.prefill if self.settings.reason_first else ""

    @cached_property
    def max_reply_tokens(self) -> int:
        """The most tokens that a reply can take up after its prompt."""
        ours = max(len(self.closing), len(self.opening) + len(self.thinking))
        # An answer that was not given, but whose probability is asked for, may be longer than the one that was.
        answer = max(len(self.renderer.encode_as_plain_text(f" {label}")) for label in get_label_scores(self.rubric))
        # Where the answer comes last, what was said in its place is kept before the one that is asked for.
        rooms = 1 + (self.settings.reason_first and self.settings.forced_answer)
        return self.settings.max_think_tokens + ours + rooms * self.room + answer

    async def generate_reply(self, prompt: RenderedPrompt, sample_index: int) -> Reply:
        """Make a reply. `sample_index` tells apart the replies to one prompt."""
        work = _ReplyInProgress(self, prompt, sample_index)
        return await (work.generate_reason_first() if self.settings.reason_first else work.generate_answer_first())


class _ReplyInProgress:
    """One reply in the making."""

    def __init__(self, replier: ReplyGenerator, prompt: RenderedPrompt, sample_index: int) -> None:
        self.r, self.prompt, self.sample_index = replier, prompt, sample_index
        self.settings = replier.settings
        self.usage = Usage()

    async def generate_reason_first(self) -> Reply:
        thought, last, text, num_waits = await self._generate_thinking()
        if last.finish_reason == "stop":
            # The token that ends `</think>` may already begin the answer: `><` is one token to many models.
            begun = last.text.partition(THINK_CLOSE)[2]
            text = text.removesuffix(THINK_CLOSE + begun)
            # No stop string: a judge that quoted `</think><answer>...` while it thought goes on to its own verdict.
            spoken = await self._generate_tokens(thought, self.r.room, measured=True)
            # One that was cut may have quoted a verdict and not yet come to its own: that is no last word.
            said = extract_answer(begun + spoken.text)
            if self._is_complete_verdict(said, spoken) or not self.settings.forced_answer:
                return await self._build_reply(thought, spoken, said, text, None, num_waits)
            if spoken.finish_reason == "length":
                spoken = await self._extend_answer(thought, spoken)
                said = extract_answer(begun + spoken.text)
                if self._is_complete_verdict(said, spoken):
                    return await self._build_reply(thought, spoken, said, text, None, num_waits)
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
        return await self._build_reply(context, answer, ANSWER_OPEN + answer.text, text, forced_answer, num_waits)

    async def generate_answer_first(self) -> Reply:
        context: tuple[int, ...] = ()
        answer = await self._generate_tokens(context, self.r.room, stop=THINK_OPEN, measured=True)
        # The token that ends `<think>` may already begin the thinking.
        (said, begun), forced_answer = split_answer_first_reply(answer.text), None
        if self.settings.forced_answer and not self._is_complete_verdict(said, answer):
            context, forced_answer = self.r.opening, "no_answer"
            answer = await self._generate_forced_answer(context)
            said, begun = ANSWER_OPEN + answer.text, ""
        places = await self._compute_distributions(
            context, answer, said, len(said) - len(answer.text) if forced_answer else 0
        )
        opened = () if THINK_OPEN in answer.text else self.r.thinking
        thought = await self._generate_tokens(
            context + answer.token_ids + opened, self.settings.max_think_tokens, stop=THINK_CLOSE
        )
        cut = answer.finish_reason == "length"
        thinking = begun + thought.text.partition(THINK_CLOSE)[0]
        return Reply(thinking, said, cut, forced_answer, 0, self.usage, places)

    async def _generate_thinking(self) -> tuple[tuple[int, ...], Generation, str, int]:
        """Think until `</think>`, the end of the turn or the budget, putting the end off as often as is asked.

        Returns:
            The tokens of the thinking, the last generation of them, their text, and how often the end was put off.
        """
        thought: tuple[int, ...] = ()
        num_waits = 0
        while True:
            left = self.settings.max_think_tokens - len(thought)
            last = await self._generate_tokens(thought, left, stop=THINK_CLOSE)
            if num_waits < self.settings.num_waits and last.finish_reason != "length":
                kept = thought + self._cut_before_close(last) + self.r.wait
                if len(kept) < self.settings.max_think_tokens:
                    thought, num_waits = kept, num_waits + 1
                    continue
            thought += last.token_ids
            return thought, last, self.r.renderer.decode(thought) if num_waits else last.text, num_waits

    async def _extend_answer(self, thought: tuple[int, ...], spoken: Generation) -> Generation:
        """What was spoken after the thinking and then cut, gone on with for as long as thinking may still last."""
        left = self.settings.max_think_tokens - len(thought)
        if left <= 0:
            return spoken
        more = await self._generate_tokens(thought + spoken.token_ids, left, measured=True)
        tokens = spoken.token_ids + more.token_ids
        return replace(
            more,
            text=self.r.renderer.decode(tokens),
            token_ids=tokens,
            logprobs=(*spoken.logprobs, *more.logprobs),
        )

    def _cut_before_close(self, thought: Generation) -> tuple[int, ...]:
        """The tokens of a thought up to its `</think>`."""
        text = thought.text.partition(THINK_CLOSE)[0]
        for n in range(len(thought.token_ids), -1, -1):
            kept = self.r.renderer.decode(thought.token_ids[:n])
            if text.startswith(kept):  # a token may hold the end of the thought and the beginning of the tag
                return thought.token_ids[:n] + tuple(self.r.renderer.encode_as_plain_text(text[len(kept) :]))
        raise AssertionError("no tokens decode to no text")

    def _is_complete_verdict(self, said: str, generation: Generation) -> bool:
        try:
            parse_answer(said, self.r.responses, self.r.rubric)
        except VerdictParseError:
            return False
        return generation.finish_reason != "length"

    async def _generate_forced_answer(self, context: tuple[int, ...]) -> Generation:
        regex = build_answer_regex(self.r.rubric, self.r.responses)
        stop = ANSWER_CLOSE if self.r.rubric.count_answers(self.r.responses) == 1 else None
        return await self._generate_tokens(context, self.r.room, stop=stop, measured=True, regex=regex)

    async def _build_reply(
        self,
        context: tuple[int, ...],
        answer: Generation,
        said: str,
        thinking: str,
        forced_answer: str | None,
        num_waits: int,
    ) -> Reply:
        """The reply that says `said`, which ends with the text of `answer` or with the end of it."""
        places = await self._compute_distributions(context, answer, said, len(said) - len(answer.text))
        return Reply(thinking, said, answer.finish_reason == "length", forced_answer, num_waits, self.usage, places)

    async def _compute_distributions(
        self, context: tuple[int, ...], answer: Generation, said: str, offset: int
    ) -> Mapping[int, Mapping[str, float]]:
        """The distribution at each place of `said` where an answer is written; `answer` begins there at `offset`."""
        try:
            reading = parse_answer(said, self.r.responses, self.r.rubric)
        except VerdictParseError:
            return {}
        places = {}
        for place in reading.places:
            if at := self.r.answers.locate_answer(answer, place - offset, self.r.renderer.decode):
                position, labels = at
                before = context + answer.token_ids[:position]

                async def probe_logprobs(
                    prefix: tuple[int, ...], before: tuple[int, ...] = before
                ) -> Mapping[int, float]:
                    probe = await self._generate_tokens(before + prefix, 1, measured=True)
                    return probe.logprobs[0] if probe.logprobs else {}

                taken, logprobs = answer.token_ids[position:], answer.logprobs[position:]
                if found := await compute_answer_distribution(labels, taken, logprobs, probe_logprobs):
                    places[place] = found
        return places

    async def _generate_tokens(
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
