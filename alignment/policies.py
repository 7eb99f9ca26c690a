"""Policies: what the judge's rewards are to improve. A policy samples completions for prompts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

from judges.engines import Engine, EngineConfig, Sampling, load_engine
from judges.errors import UsageError
from judges.rendering import RenderedPrompt, Renderer, Turn, pieces_of
from judges.types import Message


@dataclass(frozen=True)
class Completion:
    """One sample of a policy."""

    prompt: int
    """Index of its prompt."""
    sample: int
    """Which of the prompt's samples it is."""
    text: str
    tokens: int
    """Generated tokens."""
    finish_reason: str
    """`length` if it was cut off."""


class EnginePolicy:
    """A language model as a policy, over the same engines as the judge.

    Samples of a prompt share its prefill where the engine has a prefix cache.
    """

    def __init__(self, engine: Engine, sampling: Sampling) -> None:
        if sampling.temperature <= 0:
            raise UsageError("a policy samples at a temperature above 0: greedy samples of a prompt are all the same")
        self.engine = engine
        self.sampling = sampling
        self.renderer = Renderer(engine.tokenizer, engine.profile)

    @classmethod
    def from_config(cls, config: EngineConfig, sampling: Sampling) -> EnginePolicy:
        return cls(load_engine(config), sampling)

    async def sample(
        self, prompts: Sequence[Sequence[Message]], wanted: Sequence[tuple[int, int]]
    ) -> AsyncIterator[Completion]:
        """Sample completions; yields them as they are ready.

        Args:
            prompts: conversations that end with the message to be answered.
            wanted: (index of a prompt, number of the sample) for every completion to be made.

        Raises:
            UsageError: a prompt does not fit the model's context.
            EngineLostError: the engine died.
        """
        rendered = {i: self._render(prompts[i], i) for i in sorted({i for i, _ in wanted})}

        async def one(prompt: int, sample: int) -> Completion:
            p = rendered[prompt]
            generation = await self.engine.generate(p.token_ids, replace(self.sampling, draw=sample), p.media)
            text = _before(generation.text, self.sampling.stop).strip()
            return Completion(prompt, sample, text, len(generation.token_ids), generation.finish_reason)

        tasks = [asyncio.ensure_future(one(i, k)) for i, k in wanted]
        try:
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        self.engine.close()

    def _render(self, messages: Sequence[Message], index: int) -> RenderedPrompt:
        prompt = self.renderer.render([Turn(m.role, pieces_of(m.content)) for m in messages])
        if prompt.length + self.sampling.max_tokens > self.engine.max_model_len:
            raise UsageError(
                f"prompt {index} has {prompt.length} tokens; with {self.sampling.max_tokens} to be generated that is "
                f"more than the policy's {self.engine.max_model_len}"
            )
        return prompt


def _before(text: str, stop: Sequence[str]) -> str:
    """`text` up to the stop string that comes first; a completion does not include it."""
    return text[: min((text.index(s) for s in stop if s in text), default=len(text))]
