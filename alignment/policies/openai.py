"""Policy behind an OpenAI-compatible endpoint: the servers of vLLM, SGLang or llama.cpp, or a hosted model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.alignment.policies.base import Completion
from flex_judge.alignment.policies.chat import encode_prompt, parse_completions
from flex_judge.alignment.policies.endpoint import Endpoint
from flex_judge.alignment.policies.sampling import check_sample_indices, seed_for_sample
from flex_judge.judges.concurrency import await_in_background, gather_all, run_in_background
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, UsageError
from flex_judge.judges.io.http import normalize_base_url, read_key
from flex_judge.judges.types import Message

COMPLETIONS_PATH = "/chat/completions"


class OpenAIPolicy:
    """Policy over `/chat/completions`.

    Without a seed, one request asks for all samples of a prompt (`n`); if the endpoint rejects that or returns fewer,
    the rest follows in smaller requests. With a seed, each sample is a separate request with its own seed, so that
    sample 3 is the same whichever others are requested with it. Whether an endpoint honours seeds is up to the
    endpoint.
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
        """Create a policy; the first request connects.

        Args:
            url: Base URL of the API, such as `https://api.example.com/v1`; `/v1` is appended if it has no path.
            model: Name of the model at the endpoint.
            api_key: Source of the key, `env:NAME` or a file, never the key itself; None for no key.
            concurrency: Maximum number of concurrent requests.
            attempt_s: Seconds without a response after which a request is retried.
            deadline_s: Time limit of a request in seconds, with all retries and waits.
            extra: Additional fields of every request, such as `{"top_k": 20}`. They override the built-in ones, and a
                field that is None is left out: `{"max_tokens": None, "max_completion_tokens": 512}` suits models that
                require the newer field.

        Raises:
            UsageError: The URL is invalid or the key cannot be read.
        """
        key = None if api_key is None else read_key(api_key)
        if key is not None and not key.isascii():
            raise UsageError("api_key: contains non-ASCII characters, which HTTP headers cannot carry; check the key")
        for name, value in (("attempt_s", attempt_s), ("deadline_s", deadline_s)):
            if not 0 < value < math.inf:
                raise UsageError(f"{name} must be seconds above 0, not {value}")
        if concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, not {concurrency}")
        self.model_id = model
        self.url = normalize_base_url(url)
        self._extra = dict(extra or {})
        self._settings = (self.url, key, attempt_s, deadline_s, concurrency)
        self._max_samples = math.inf
        """Maximum number of samples per request, as learned from the endpoint's responses."""
        self._endpoint: Endpoint | None = None

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """See `Policy.sample`."""
        check_sample_indices(sampling, sample_indices)
        if sampling.regex is not None or sampling.logprob_token_ids:
            raise UsageError(
                "regex and logprob_token_ids: not supported by a policy behind an endpoint; leave them out"
            )
        if not sample_indices:
            return []
        # One background loop owns the connections, because callers may use several short-lived loops.
        return await await_in_background(self._sample_in_background(prompt, sampling, sample_indices))

    async def check_health(self) -> None:
        """See `Policy.check_health`."""
        await await_in_background(self._check_health())

    def close(self) -> None:
        """See `Policy.close`."""
        if self._endpoint is not None:
            run_in_background(self._close_endpoint())

    async def _sample_in_background(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        body = {
            "model": self.model_id,
            **await asyncio.to_thread(encode_prompt, prompt),
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(sampling.stop) or None,
        } | self._extra
        if sampling.seed is None:
            return await self._request_completions(body, sampling.stop, len(sample_indices))
        seeds = [seed_for_sample(prompt, sampling, sample_index) for sample_index in sample_indices]
        batches = await gather_all(self._request_once(body | {"seed": seed}, sampling.stop, 1) for seed in seeds)
        return [completion for (completion,) in batches]

    async def _request_completions(self, body: dict[str, Any], stop: Sequence[str], n: int) -> list[Completion]:
        """Request n completions, in as few requests as the endpoint allows."""
        completions: list[Completion] = []
        while missing := n - len(completions):
            limit = int(min(missing, self._max_samples))
            sizes = [min(limit, missing - start) for start in range(0, missing, limit)]
            for batch in await gather_all(self._request_once(body, stop, size) for size in sizes):
                completions += batch
        return completions

    async def _request_once(self, body: dict[str, Any], stop: Sequence[str], n: int) -> list[Completion]:
        """Send one request for n completions and return at least one."""
        try:
            response = await self._post_body(body | {"n": n} if n > 1 else body)
        except AccessError:  # a wrong key or model: fewer samples per request would not help
            raise
        except UsageError:
            if n == 1:
                raise
            # Some endpoints reject n > 1. If the cause is another one, the second request fails, too.
            response = await self._post_body(body)
        completions = parse_completions(response, stop, self.url)[:n]
        if not completions:
            raise EngineLostError(f"{self.url}: the response has no completion")
        if len(completions) < n:
            self._max_samples = min(self._max_samples, len(completions))
        return completions

    async def _post_body(self, body: dict[str, Any]) -> Any:
        fields = {name: value for name, value in body.items() if value is not None}
        return await self._get_endpoint().post(COMPLETIONS_PATH, fields)

    def _get_endpoint(self) -> Endpoint:
        """Return this process's connections. Must be called in the background loop."""
        # After a fork, the inherited connections belong to the parent's loop.
        if self._endpoint is None or self._endpoint.loop is not asyncio.get_running_loop():
            self._endpoint = Endpoint(*self._settings)
        return self._endpoint

    async def _check_health(self) -> None:
        await self._get_endpoint().check_health()

    async def _close_endpoint(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None and endpoint.loop is asyncio.get_running_loop():
            await endpoint.close()
