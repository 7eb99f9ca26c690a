"""A language model in one of our engines as a policy: the same engines that run the judge."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.sampling import check_sample_indices, seed_for_sample, trim_completion
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines.base import Engine, Sampling
from flex_judge.judges.errors import EngineLostError, RenderError, UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.media.types import Media
from flex_judge.judges.protocol.prompts import content_to_pieces
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.protocol.turns import Turn
from flex_judge.judges.types import Message, split_content


class EnginePolicy:
    """Implements `Policy` over an engine, which it owns: closing the one closes the other.

    Samples of a prompt are separate requests that are made at once. They share its prefill where the engine has a
    prefix cache (vllm): what one of them computes the others find, also within the same step.
    """

    def __init__(self, engine: Engine, media: MediaLimits | None = None) -> None:
        """
        Args:
            engine: runs the model.
            media: how media of prompts are scaled, where that is to differ from the model family's own limits.
        """
        self.engine = engine
        self.model_id = engine.model_id
        self._media = media
        self._renderer = Renderer(engine.tokenizer, engine.profile)

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`. A prompt is too long if it leaves less room than `sampling.max_tokens`."""
        check_sample_indices(sampling, sample_indices)
        if any(isinstance(part, Media) for message in prompt for part in split_content(message.content)):
            rendered = await asyncio.to_thread(self._render_prompt, prompt)  # decoding takes a while
        else:
            rendered = self._render_prompt(prompt)
        if rendered.length + sampling.max_tokens > self.engine.max_model_len:
            raise UsageError(
                f"the prompt has {rendered.length} tokens; with {sampling.max_tokens} to be generated that is more "
                f"than the policy's {self.engine.max_model_len}; shorten it, or raise max_model_len"
            )
        return await gather_all(
            self._sample_one(
                rendered,
                replace(sampling, sample_index=sample_index, seed=seed_for_sample(prompt, sampling, sample_index)),
            )
            for sample_index in sample_indices
        )

    async def check_health(self) -> None:
        await self.engine.check_health()

    def close(self) -> None:
        self.engine.close()

    def _render_prompt(self, prompt: Sequence[Message]) -> RenderedPrompt:
        turns = [Turn(message.role, content_to_pieces(message.content)) for message in prompt]
        try:
            return self._renderer.render(turns, limits=self._media)
        except RenderError as e:
            raise UsageError(f"the prompt cannot be shown to {self.model_id}: {e}") from e

    async def _sample_one(self, prompt: RenderedPrompt, sampling: Sampling) -> Completion:
        try:
            generation = await self.engine.generate(prompt.token_ids, sampling, prompt.media)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # Nobody gave this sample up: what the engine had under way was cancelled within the engine.
            raise EngineLostError("the engine dropped a request") from None
        text = trim_completion(generation.text, sampling.stop)
        return Completion(text, len(generation.token_ids), generation.finish_reason == "length")
