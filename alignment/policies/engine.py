"""Policy over one of this project's engines, which also run the judge."""

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
from flex_judge.judges.protocol.chats import render_conversation
from flex_judge.judges.protocol.rendering import RenderedPrompt, Renderer
from flex_judge.judges.types import Message, split_content


class EnginePolicy:
    """Policy over an engine. Owns the engine: closing the policy closes it.

    The samples of a prompt are concurrent requests. An engine with a prefix cache (vllm) computes their prefill once,
    even within one step.
    """

    def __init__(self, engine: Engine, media: MediaLimits | None = None) -> None:
        """Create a policy.

        Args:
            engine: Engine with the model loaded.
            media: Limits for scaling media of prompts; None for the model family's own limits.
        """
        self.engine = engine
        self.model_id = engine.model_id
        self._media = media
        self._renderer = Renderer(engine.tokenizer, engine.profile)

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`. The prompt and `sampling.max_tokens` together must fit the context."""
        check_sample_indices(sampling, sample_indices)
        if any(isinstance(part, Media) for message in prompt for part in split_content(message.content)):
            rendered = await asyncio.to_thread(self._render_prompt, prompt)  # decoding media takes long
        else:
            rendered = self._render_prompt(prompt)
        if rendered.length + sampling.max_tokens > self.engine.max_model_len:
            raise UsageError(
                f"the prompt has {rendered.length} tokens and {sampling.max_tokens} are to be generated, more than the "
                f"policy's {self.engine.max_model_len}; shorten the prompt or raise max_model_len"
            )
        # One lost sample cancels the others, because the caller retries the whole prompt.
        return await gather_all(
            self._sample_one(
                rendered,
                replace(sampling, sample_index=sample_index, seed=seed_for_sample(prompt, sampling, sample_index)),
            )
            for sample_index in sample_indices
        )

    async def check_health(self) -> None:
        """See `Policy.check_health`."""
        await self.engine.check_health()

    def close(self) -> None:
        """See `Policy.close`."""
        self.engine.close()

    def _render_prompt(self, prompt: Sequence[Message]) -> RenderedPrompt:
        try:
            return render_conversation(self._renderer, prompt, self._media)
        except RenderError as e:
            raise UsageError(f"the prompt cannot be rendered for {self.model_id}: {e}") from e

    async def _sample_one(self, prompt: RenderedPrompt, sampling: Sampling) -> Completion:
        try:
            generation = await self.engine.generate(prompt.token_ids, sampling, prompt.media)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
            # The caller did not cancel this sample, so the engine cancelled the request internally.
            raise EngineLostError("the engine dropped a request") from None
        text = trim_completion(generation.text, sampling.stop)
        return Completion(text, len(generation.token_ids), generation.finish_reason == "length", prompt.note)
