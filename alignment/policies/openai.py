"""A policy behind any OpenAI-compatible endpoint: vLLM's and SGLang's servers, llama.cpp, or a hosted model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.chat import encode_prompt, parse_completions
from flex_judge.alignment.policies.endpoint import Endpoint, normalize_base_url
from flex_judge.alignment.policies.sampling import check_sample_indices, seed_for_sample
from flex_judge.judges.concurrency import await_in_background, gather_all, run_in_background
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, UsageError
from flex_judge.judges.types import Message
from flex_judge.reward.client.api_key import read_key

COMPLETIONS_PATH = "/chat/completions"


class OpenAIPolicy:
    """Implements `Policy` over `/chat/completions`.

    Without a seed the draws of a prompt are asked for in one request (`n`); of an endpoint that gives fewer, or refuses
    to, in as many as it takes. With one, each draw is a request with a seed of its own: only so is draw number 3 the
    same whichever others are asked for with it. How far an endpoint heeds seeds is its own affair.
    """

    def __init__(
        self,
        url: str,
        model: str,
        api_key: str | None = None,
        *,
        concurrency: int = 64,
        attempt_s: float = 300.0,
        deadline_s: float = 600.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Args:
            url: what the paths of the API come after, such as `https://api.example.com/v1`; where it has no path, `/v1`
                is added.
            model: its name there.
            api_key: where the key is, `env:NAME` or a file, never the key itself; None for an endpoint without.
            concurrency: requests under way at a time.
            attempt_s: seconds without an answer after which a request is repeated.
            deadline_s: seconds that a request may take with all tries and waits.
            extra: further fields of every request, such as `{"top_k": 20}`. They win over ours, and one that is None
                is left out: `{"max_tokens": None, "max_completion_tokens": 512}` suits models that want it so.

        Raises:
            UsageError: no such url or key.
        """
        key = None if api_key is None else read_key(api_key)
        if key is not None and not key.isascii():
            raise UsageError("api key: must be ASCII")
        for name, value in (("attempt_s", attempt_s), ("deadline_s", deadline_s)):
            if not 0 < value < math.inf:
                raise UsageError(f"{name} must be seconds above 0, not {value}")
        if concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {concurrency}")
        self.model_id = model
        self.url = normalize_base_url(url)
        self._extra = dict(extra or {})
        self._settings = (self.url, key, attempt_s, deadline_s, concurrency)
        self._most = math.inf  # draws that it gives in one request, as far as is known
        self._endpoint: Endpoint | None = None

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`."""
        check_sample_indices(sampling, sample_indices)
        if sampling.regex is not None or sampling.logprob_token_ids:
            raise UsageError("a policy behind an endpoint takes no regex and no logprob_token_ids")
        if not sample_indices:
            return []
        return await await_in_background(self._sample_in_background(prompt, sampling, sample_indices))

    async def check_health(self) -> None:
        await await_in_background(self._check_health())

    def close(self) -> None:
        if self._endpoint is not None:
            run_in_background(self._close_endpoint())

    async def _sample_in_background(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        body = {
            "model": self.model_id,
            "messages": await asyncio.to_thread(encode_prompt, prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(sampling.stop) or None,
        } | self._extra
        if sampling.seed is None:
            return await self._request_completions(body, sampling.stop, len(sample_indices))
        seeds = [seed_for_sample(prompt, sampling, sample_index) for sample_index in sample_indices]
        found = await gather_all(self._request_once(body | {"seed": seed}, sampling.stop, 1) for seed in seeds)
        return [completion for (completion,) in found]

    async def _request_completions(self, body: dict[str, Any], stop: Sequence[str], n: int) -> list[Completion]:
        """So many completions, in as few requests as the endpoint allows."""
        found: list[Completion] = []
        while missing := n - len(found):
            most = int(min(missing, self._most))
            sizes = [min(most, missing - start) for start in range(0, missing, most)]
            for completions in await gather_all(self._request_once(body, stop, size) for size in sizes):
                found += completions
        return found

    async def _request_once(self, body: dict[str, Any], stop: Sequence[str], n: int) -> list[Completion]:
        """One request; from one completion to n."""
        try:
            answer = await self._post_body(body | {"n": n} if n > 1 else body)
        except AccessError:
            raise
        except UsageError:
            if n == 1:
                raise
            answer = await self._post_body(
                body
            )  # some refuse to give several at a time; what else is wrong shows again
        completions = parse_completions(answer, stop, self.url)[:n]
        if not completions:
            raise EngineLostError(f"{self.url}: answered without a completion")
        if len(completions) < n:
            self._most = min(self._most, len(completions))
        return completions

    async def _post_body(self, body: dict[str, Any]) -> Any:
        return await self._get_endpoint().post(
            COMPLETIONS_PATH, {name: value for name, value in body.items() if value is not None}
        )

    def _get_endpoint(self) -> Endpoint:
        """This process' connections (after a fork others than its parent's); called in the background loop alone."""
        if (
            self._endpoint is None or self._endpoint.loop is not asyncio.get_running_loop()
        ):  # after a fork: the parent's
            self._endpoint = Endpoint(*self._settings)
        return self._endpoint

    async def _check_health(self) -> None:
        await self._get_endpoint().check_health()

    async def _close_endpoint(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and endpoint.loop is asyncio.get_running_loop():
            await endpoint.close()
