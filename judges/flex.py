"""The judge: think within a budget, then answer; an answer that does not come is asked for under a grammar."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from judges.engines import Engine, EngineConfig, Generation, Sampling, load_engine
from judges.errors import UsageError, VerdictParseError
from judges.parsing import parse_scores, split_reply
from judges.prompts import ANSWER_CLOSE, ANSWER_OPEN, THINK_CLOSE, answer_regex, judge_turns
from judges.rendering import Renderer
from judges.rubrics import Rubric, load_rubric
from judges.types import Comparison, Judgment, Status, Usage, Verdict
from judges.uncertainty import Labels, expected_score, logprob_token_ids, score_labels, token_at

CLOSING = f"\n{THINK_CLOSE}{ANSWER_OPEN}"
"""What is written for a judge that did not come to an answer by itself."""
CONCURRENCY = 256
"""Comparisons that `FlexJudge.judge` has under way at a time."""


@dataclass(frozen=True)
class JudgeSettings:
    """How a judge thinks and answers. The defaults are the published protocol's for scores."""

    max_think_tokens: int = 4096
    """Thinking longer than this is cut off and the answer forced."""
    max_answer_tokens: int = 64
    """Room for what follows the thinking."""
    temperature: float = 0.4
    top_p: float = 0.8
    prime: str = "<think>\n"
    """What the reply is made to begin with; empty for a model that opens its thinking by itself."""
    deadline_s: float | None = 600.0
    """A judgment that takes longer has status timeout. None waits for ever."""

    def __post_init__(self) -> None:
        for name in ("max_think_tokens", "max_answer_tokens"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"temperature must be 0 or more, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.deadline_s is not None and not self.deadline_s > 0:
            raise UsageError(f"deadline_s must be above 0, or None for no deadline, not {self.deadline_s}")


@dataclass(frozen=True)
class JudgeConfig:
    """Everything a judge is made of; plain data, so that a replica elsewhere can be made from it."""

    engine: EngineConfig
    settings: JudgeSettings = field(default_factory=JudgeSettings)


@dataclass(frozen=True)
class _Reply:
    """A reply as it was made: the thinking, then the answer with its log-probabilities."""

    thinking: str
    answer: Generation
    prefix: str
    """What stands before `answer`: what we wrote ourselves, or the end of the last token of the thinking."""
    forced: str | None
    usage: Usage


class FlexJudge:
    """Judges comparisons with one engine.

    Example:
        >>> judge = FlexJudge.from_pretrained("smollm2-135m", max_think_tokens=64)
        >>> judge.judge([Comparison.of("What is 2 + 3?", "It is 5.")])[0].scores
    """

    def __init__(self, engine: Engine, settings: JudgeSettings | None = None) -> None:
        self.engine = engine
        self.settings = settings or JudgeSettings()
        self.renderer = Renderer(engine.tokenizer)
        self._rubrics: dict[str, tuple[Rubric, Labels]] = {}
        self._closing = tuple(self.renderer.encode_trusted(CLOSING))

    @classmethod
    def from_config(cls, config: JudgeConfig) -> FlexJudge:
        return cls(load_engine(config.engine), config.settings)

    @classmethod
    def from_pretrained(cls, model: str, engine: str = "auto", max_model_len: int = 8192, **settings: Any) -> FlexJudge:
        """Load a judge by model name, folder or hub id. `settings` are the fields of JudgeSettings."""
        return cls.from_config(
            JudgeConfig(EngineConfig(model, engine, max_model_len=max_model_len), JudgeSettings(**settings))
        )

    def judge(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        """Judge all comparisons; judgments come in the same order. For use outside of an event loop."""
        return asyncio.run(self._judge_all(comparisons))

    async def ajudge(self, comparison: Comparison) -> Judgment:
        """Judge one comparison. Failures become a status, never a score.

        Raises:
            UsageError: the rubric does not exist, or the number of responses has no form.
            RenderError: the model's chat template cannot be followed.
            EngineLostError: the engine died; whoever owns it decides where to try again.
        """
        rubric, labels = self._rubric(comparison.rubric)
        rendered = self.renderer.render(judge_turns(comparison, rubric), prime=self.settings.prime)
        room = self.engine.max_model_len - len(rendered.token_ids)
        needed = self.settings.max_think_tokens + len(self._closing) + self.settings.max_answer_tokens
        if room < needed:
            detail = f"prompt of {len(rendered.token_ids)} tokens leaves {room} of the {needed} that a verdict may need"
            return self._unscored(comparison, Status.OVERLONG, detail)
        try:
            async with asyncio.timeout(self.settings.deadline_s) as deadline:
                reply = await self._reply(rendered.token_ids, rubric, labels, len(comparison.responses))
        except TimeoutError:
            if not deadline.expired():
                raise  # somebody else's
            return self._unscored(comparison, Status.TIMEOUT, f"no verdict within {self.settings.deadline_s} s")
        verdict = self._read(reply, rubric, labels, len(comparison.responses))
        return Judgment(
            id=comparison.id,
            status=verdict.status,
            scores=verdict.scores,
            expected_scores=verdict.expected_scores,
            reasoning=verdict.reasoning,
            votes=(verdict,),
            usage=reply.usage,
            model=self.engine.model_id,
            provenance=self._provenance(comparison),
        )

    def close(self) -> None:
        self.engine.close()

    async def _judge_all(self, comparisons: Sequence[Comparison]) -> list[Judgment]:
        # A comparison's deadline runs while it waits for the engine, so only so many wait at a time.
        limit = asyncio.Semaphore(CONCURRENCY)

        async def one(comparison: Comparison) -> Judgment:
            async with limit:
                return await self.ajudge(comparison)

        return await asyncio.gather(*map(one, comparisons))

    async def _reply(self, prompt: tuple[int, ...], rubric: Rubric, labels: Labels, responses: int) -> _Reply:
        """Think until `</think>`, the end of the turn or the budget; then answer, under the grammar if need be."""
        s = self.settings
        thought = await self.engine.generate(
            prompt, Sampling(s.max_think_tokens, s.temperature, s.top_p, stop=(THINK_CLOSE,))
        )
        context = prompt + thought.token_ids
        # No stop string: a judge that quoted `</think><answer>...` while it thought goes on to its own verdict.
        ask = Sampling(s.max_answer_tokens, s.temperature, s.top_p, logprob_token_ids=logprob_token_ids(labels))
        if thought.finish_reason == "stop":
            answer = await self.engine.generate(context, ask)
            # The token that ends `</think>` may already begin the answer: `><` is one token to many models.
            begun = thought.text.partition(THINK_CLOSE)[2]
            return _Reply(thought.text, answer, begun, None, thought.usage + answer.usage)
        stop = (ANSWER_CLOSE,) if responses == 1 else ()
        grammar = replace(ask, regex=answer_regex(rubric, responses), stop=stop)
        answer = await self.engine.generate(context + self._closing, grammar)
        forced = "budget" if thought.finish_reason == "length" else "early_end"
        return _Reply(thought.text, answer, ANSWER_OPEN, forced, thought.usage + answer.usage)

    def _read(self, reply: _Reply, rubric: Rubric, labels: Labels, responses: int) -> Verdict:
        reasoning = reply.thinking.partition(THINK_CLOSE)[0].removeprefix("<think>").strip()
        _, answer = split_reply(THINK_CLOSE + reply.prefix + reply.answer.text)
        try:
            scores, places = parse_scores(answer, responses, rubric.scale)
        except VerdictParseError as e:
            cut = reply.answer.finish_reason == "length"
            return Verdict(
                Status.TRUNCATED if cut else Status.UNPARSEABLE, reasoning=reasoning, forced=reply.forced, detail=str(e)
            )
        # Places are counted from the end of the answer, because it may have been cut at its beginning.
        ends = [len(reply.answer.text) - (len(answer) - place) for place in places]
        return Verdict(Status.OK, scores, self._expected(reply.answer, ends, scores, labels), reasoning, reply.forced)

    def _expected(
        self, answer: Generation, places: Sequence[int], scores: Sequence[float], labels: Labels
    ) -> tuple[float, ...] | None:
        """Expected scores; None unless every one of them is known."""
        means = []
        for place, score in zip(places, scores, strict=True):
            position = token_at(answer, place, self.renderer.decode)
            on_grid = score in labels.values()
            mean = expected_score(answer, position, labels) if on_grid and position is not None else None
            if mean is None:
                return None
            means.append(mean)
        return tuple(means)

    def _rubric(self, name: str) -> tuple[Rubric, Labels]:
        if name not in self._rubrics:
            rubric = load_rubric(name)
            self._rubrics[name] = rubric, score_labels(rubric.scale, self.renderer.encode_untrusted)
        return self._rubrics[name]

    def _provenance(self, comparison: Comparison) -> Mapping[str, Any]:
        return {"engine": self.engine.name, "rubric": comparison.rubric}

    def _unscored(self, comparison: Comparison, status: Status, detail: str) -> Judgment:
        return Judgment.unscored(
            comparison.id, status, detail, model=self.engine.model_id, provenance=self._provenance(comparison)
        )
