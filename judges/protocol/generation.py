"""Generate one reply of the judge: reasoning within a budget, then an answer, forced by a grammar if it is missing.

Budget forcing uses the same mechanism as the thinking budget: the reasoning is cut at a token, and generation continues
after a text of ours. At the budget that text closes the reasoning; for budget forcing it is "Wait".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

from flex_judge.judges.engines.base import Engine, FinishReason, Generation, Sampling
from flex_judge.judges.errors import VerdictParseError
from flex_judge.judges.judgments import Usage
from flex_judge.judges.protocol.expected_score import AnswerTokens, compute_answer_distribution
from flex_judge.judges.protocol.parsing import (
    Reply,
    extract_answer,
    parse_answer,
    split_answer_first_reply,
)
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, THINK_OPEN, build_answer_regex
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.settings import JudgeSettings
from flex_judge.judges.rubrics.rubric import Rubric

WAIT = "Wait"
"""Text that replaces the end of the reasoning for budget forcing (arXiv 2501.19393)."""


class ReplyGenerator:
    """Generates replies for one rubric and one number of responses.

    Args:
        engine: generates the tokens.
        renderer: encodes text for the engine's model.
        settings: thinking budget, answer length and sampling.
        rubric: defines the possible answers.
        responses: number of responses judged together.
    """

    def __init__(
        self, engine: Engine, renderer: Renderer, settings: JudgeSettings, rubric: Rubric, responses: int
    ) -> None:
        self.engine, self.renderer, self.settings = engine, renderer, settings
        self.rubric, self.responses = rubric, responses
        self.answer_budget = settings.compute_answer_budget(responses)
        self.answer_tokens = AnswerTokens(rubric.labels, renderer.encode_as_plain_text)
        encode = renderer.encode_with_control_tokens
        self.close_thinking_tokens = tuple(encode(f"\n{THINK_CLOSE}{ANSWER_OPEN}"))
        self.open_answer_tokens = tuple(encode(ANSWER_OPEN))
        self.open_thinking_tokens = tuple(encode(f"{THINK_OPEN}\n"))
        self.wait_tokens = tuple(encode(WAIT))

    @property
    def prefill(self) -> str:
        """Text that the reply starts with. The model family's prefill opens the reasoning, so answer-first has none."""
        if self.settings.prefill is not None:
            return self.settings.prefill
        return self.engine.profile.prefill if self.settings.reason_first else ""

    @cached_property
    def max_reply_tokens(self) -> int:
        """Maximum number of tokens after the prompt, including inserted text, probes and a forced answer."""
        inserted = max(len(self.close_thinking_tokens), len(self.open_answer_tokens) + len(self.open_thinking_tokens))
        # A probed answer can have more tokens than the sampled one.
        longest_label = max(len(self.renderer.encode_as_plain_text(f" {label}")) for label in self.rubric.labels)
        # With reasoning first, text that holds no valid answer stays in the context before the forced answer.
        answers = 2 if self.settings.reason_first and self.settings.forced_answer else 1
        return self.settings.max_think_tokens + inserted + answers * self.answer_budget + longest_label

    async def generate_reply(self, prompt: RenderedPrompt, sample_index: int) -> Reply:
        """Generate one reply.

        Args:
            prompt: the rendered prompt.
            sample_index: tells replies to the same prompt apart; a ledger replays the reply with the same index.
        """
        in_progress = _ReplyInProgress(self, prompt, sample_index)
        if self.settings.reason_first:
            reply = await in_progress.generate_reason_first()
        else:
            reply = await in_progress.generate_answer_first()
        return replace(reply, num_waits=in_progress.num_waits, usage=in_progress.usage)


@dataclass(frozen=True)
class _Thinking:
    """Reasoning of a reply."""

    text: str
    """The reasoning, without the `</think>` that closes it."""
    token_ids: tuple[int, ...]
    """Its tokens, with inserted `Wait`s and, if the model closed it, the `</think>`."""
    finish_reason: FinishReason
    """`stop` if the model closed its reasoning."""
    answer_start: str
    """Text after `</think>` in the last token: `><` is a single token in many vocabularies."""


class _ReplyInProgress:
    """State of one reply while it is generated."""

    def __init__(self, generator: ReplyGenerator, prompt: RenderedPrompt, sample_index: int) -> None:
        self.generator, self.settings = generator, generator.settings
        self.prompt, self.sample_index = prompt, sample_index
        self.num_waits = 0
        self.usage = Usage()

    async def generate_reason_first(self) -> Reply:
        thinking = await self._generate_thinking()
        if thinking.finish_reason == "stop":
            return await self._answer_after_thinking(thinking)
        is_cut = thinking.finish_reason == "length"
        if not self.settings.forced_answer:
            return Reply(thinking.text, answer="", cut=is_cut)
        context = thinking.token_ids + self.generator.close_thinking_tokens
        return await self._force_answer(context, thinking.text, "budget" if is_cut else "early_end")

    async def _answer_after_thinking(self, thinking: _Thinking) -> Reply:
        """Generate the answer after closed reasoning; force it if the model gives no valid one."""
        # No stop string: a judge that quoted `</think><answer>...` in its reasoning continues to its own verdict.
        spoken = await self._generate_tokens(thinking.token_ids, self.generator.answer_budget, with_logprobs=True)
        answer = extract_answer(thinking.answer_start + spoken.text)
        is_final = self._is_complete_verdict(answer, spoken) or not self.settings.forced_answer
        # Text that was cut may have quoted a verdict without having reached its own, so it may continue.
        if not is_final and spoken.finish_reason == "length":
            spoken = await self._extend_answer(thinking.token_ids, spoken)
            answer = extract_answer(thinking.answer_start + spoken.text)
            is_final = self._is_complete_verdict(answer, spoken)
        if is_final:
            return await self._build_reply(thinking.token_ids, spoken, answer, thinking.text)
        text = thinking.answer_start + spoken.text
        if not text.strip():
            context = thinking.token_ids + self.generator.open_answer_tokens
            return await self._force_answer(context, thinking.text, "no_answer")
        # The forced answer follows all of the judge's text, never its first `</think>`: if that tag was quoted from a
        # response, the grammar would complete the verdict that the response asks for.
        context = thinking.token_ids + spoken.token_ids + self.generator.close_thinking_tokens
        return await self._force_answer(context, thinking.text + THINK_CLOSE + text, "no_answer")

    async def _force_answer(self, context: tuple[int, ...], thinking: str, reason: str) -> Reply:
        forced = await self._generate_forced_answer(context)
        return await self._build_reply(context, forced, ANSWER_OPEN + forced.text, thinking, forced_answer=reason)

    async def generate_answer_first(self) -> Reply:
        context: tuple[int, ...] = ()
        budget = self.generator.answer_budget
        generation = await self._generate_tokens(context, budget, stop=THINK_OPEN, with_logprobs=True)
        # The token that ends `<think>` may already start the reasoning.
        answer, thinking_start = split_answer_first_reply(generation.text)
        offset, forced_answer = 0, None
        if self.settings.forced_answer and not self._is_complete_verdict(answer, generation):
            context, forced_answer = self.generator.open_answer_tokens, "no_answer"
            generation = await self._generate_forced_answer(context)
            answer, thinking_start, offset = ANSWER_OPEN + generation.text, "", len(ANSWER_OPEN)
        distributions = await self._compute_distributions(context, generation, answer, offset)
        opening = () if THINK_OPEN in generation.text else self.generator.open_thinking_tokens
        prefix = context + generation.token_ids + opening
        thought = await self._generate_tokens(prefix, self.settings.max_think_tokens, stop=THINK_CLOSE)
        thinking = thinking_start + thought.text.partition(THINK_CLOSE)[0]
        is_cut = generation.finish_reason == "length"
        return Reply(thinking, answer, is_cut, forced_answer, distributions=distributions)

    async def _generate_thinking(self) -> _Thinking:
        """Generate reasoning up to `</think>`, the end of the turn or the budget, with budget forcing if it is on."""
        budget = self.settings.max_think_tokens
        token_ids: tuple[int, ...] = ()
        while True:
            last = await self._generate_tokens(token_ids, budget - len(token_ids), stop=THINK_CLOSE)
            if self.num_waits == self.settings.num_waits or last.finish_reason == "length":
                break
            extended = token_ids + self._cut_before_close(last) + self.generator.wait_tokens
            # Without a token left to think with, "Wait" would only replace the end that the model wrote.
            if len(extended) >= budget:
                break
            token_ids = extended
            self.num_waits += 1
        token_ids += last.token_ids
        text = self.generator.renderer.decode(token_ids) if self.num_waits else last.text
        answer_start = last.text.partition(THINK_CLOSE)[2]
        if last.finish_reason == "stop":
            text = text.removesuffix(THINK_CLOSE + answer_start)
        return _Thinking(text, token_ids, last.finish_reason, answer_start)

    async def _extend_answer(self, thought: tuple[int, ...], spoken: Generation) -> Generation:
        """Continue text after the reasoning that was cut, within what is left of the thinking budget."""
        remaining = self.settings.max_think_tokens - len(thought)
        if remaining <= 0:
            return spoken
        continuation = await self._generate_tokens(thought + spoken.token_ids, remaining, with_logprobs=True)
        token_ids = spoken.token_ids + continuation.token_ids
        return replace(
            continuation,
            text=self.generator.renderer.decode(token_ids),
            token_ids=token_ids,
            logprobs=(*spoken.logprobs, *continuation.logprobs),
        )

    def _cut_before_close(self, thought: Generation) -> tuple[int, ...]:
        """Return the tokens of a thought up to its `</think>`."""
        renderer = self.generator.renderer
        text = thought.text.partition(THINK_CLOSE)[0]
        for n in range(len(thought.token_ids), -1, -1):
            prefix = renderer.decode(thought.token_ids[:n])
            # One token may hold the end of the reasoning and the start of the tag; its text is encoded again.
            if text.startswith(prefix):
                return thought.token_ids[:n] + tuple(renderer.encode_as_plain_text(text[len(prefix) :]))
        raise AssertionError("no tokens decode to no text")

    def _is_complete_verdict(self, answer: str, generation: Generation) -> bool:
        try:
            parse_answer(answer, self.generator.responses, self.generator.rubric)
        except VerdictParseError:
            return False
        return generation.finish_reason != "length"

    async def _generate_forced_answer(self, context: tuple[int, ...]) -> Generation:
        """Generate the rest of an answer under the rubric's grammar; the context ends with `<answer>`."""
        rubric, responses = self.generator.rubric, self.generator.responses
        stop = ANSWER_CLOSE if rubric.count_answers(responses) == 1 else None
        regex, budget = build_answer_regex(rubric, responses), self.generator.answer_budget
        return await self._generate_tokens(context, budget, stop=stop, with_logprobs=True, regex=regex)

    async def _build_reply(
        self,
        context: tuple[int, ...],
        generation: Generation,
        answer: str,
        thinking: str,
        forced_answer: str | None = None,
    ) -> Reply:
        """Build a reply whose answer ends with the text of `generation`, or with the end of that text."""
        offset = len(answer) - len(generation.text)
        distributions = await self._compute_distributions(context, generation, answer, offset)
        is_cut = generation.finish_reason == "length"
        return Reply(thinking, answer, is_cut, forced_answer, distributions=distributions)

    async def _compute_distributions(
        self, context: tuple[int, ...], generation: Generation, answer: str, offset: int
    ) -> Mapping[int, Mapping[str, float]]:
        """Compute the distribution at each position of `answer` where a score or option is written.

        Args:
            context: tokens between the prompt and `generation`.
            generation: the generation that holds the answer.
            answer: text of the answer.
            offset: index in `answer` at which the text of `generation` starts; negative if it starts before.
        """
        try:
            parsed = parse_answer(answer, self.generator.responses, self.generator.rubric)
        except VerdictParseError:
            return {}
        distributions = {}
        for position in parsed.positions:
            location = self.generator.answer_tokens.locate_answer(
                generation, position - offset, self.generator.renderer.decode
            )
            if location is None:
                continue
            start, labels = location
            sampled, logprobs = generation.token_ids[start:], generation.logprobs[start:]
            probe = partial(self._probe_logprobs, context + generation.token_ids[:start])
            if distribution := await compute_answer_distribution(labels, sampled, logprobs, probe):
                distributions[position] = distribution
        return distributions

    async def _probe_logprobs(self, context: tuple[int, ...], prefix: tuple[int, ...]) -> Mapping[int, float]:
        probe = await self._generate_tokens(context + prefix, 1, with_logprobs=True)
        return probe.logprobs[0] if probe.logprobs else {}

    async def _generate_tokens(
        self,
        context: tuple[int, ...],
        max_tokens: int,
        *,
        stop: str | None = None,
        with_logprobs: bool = False,
        regex: str | None = None,
    ) -> Generation:
        """Send one request that continues prompt and context, and count its tokens."""
        sampling = Sampling(
            max_tokens,
            self.settings.temperature,
            self.settings.top_p,
            stop=(stop,) if stop else (),
            regex=regex,
            logprob_token_ids=self.generator.answer_tokens.token_ids if with_logprobs else (),
            # Sample indices have 16 bits, and the judge's seed is added above them: another seed, other samples.
            sample_index=self.sample_index + (self.settings.seed << 16),
        )
        # A judge may write a placeholder itself. The engine would look for a medium there and refuse the request.
        token_ids = self.prompt.token_ids + self.generator.renderer.drop_placeholders(context)
        generation = await self.generator.engine.generate(token_ids, sampling, self.prompt.media)
        self.usage += generation.usage
        return generation
