"""Requests and responses of a server's completions route, with token ids in both directions.

The route is vLLM's `/v1/completions` with a list of token ids as prompt. Every `vllm serve` has it, while the route
`/inference/v1/generate` needs `--enable-scale-out`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flex_judge.judges.engines.base import NEVER, FinishReason, Generation, Sampling
from flex_judge.judges.errors import AccessError, GenerationError, UsageError, to_one_line
from flex_judge.judges.io.http import extract_message

if TYPE_CHECKING:
    import httpx

LOWEST_LOGPROB = -9999.0  # vLLM writes this for minus infinity, which JSON does not have
MAX_MESSAGE = 300


def build_request(
    model: str,
    prompt_token_ids: Sequence[int],
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    forbidden_ids: Sequence[int] = (),
) -> dict[str, Any]:
    """Build the body of a completions request.

    Every sampling parameter is sent: a server takes missing ones from the model's generation configuration.

    Args:
        model: name of the model at the server.
        prompt_token_ids: the prompt.
        sampling: sampling parameters.
        stop_ids: tokens that end a turn.
        forbidden_ids: tokens that are never generated.
    """
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(prompt_token_ids),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop": list(sampling.stop),
        "stop_token_ids": list(stop_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
    }
    if forbidden_ids:
        body["logit_bias"] = {str(token): NEVER for token in forbidden_ids}
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.regex is not None:
        body["structured_outputs"] = {"regex": sampling.regex}
    if sampling.logprob_token_ids:
        body |= {
            "logprobs": 0,
            "logprob_token_ids": list(sampling.logprob_token_ids),
            "return_tokens_as_token_ids": True,
        }
    return body


def read_generation(body: Any, sampling: Sampling, prompt_token_ids: Sequence[int], tokenizer: Any) -> Generation:
    """Read the generation in a completions response, and check that it answers the request.

    Args:
        body: JSON of the response.
        sampling: sampling parameters of the request.
        prompt_token_ids: prompt of the request.
        tokenizer: tokenizer of the model.

    Raises:
        GenerationError: the response is not what was asked for. Nothing of it may become a verdict.
    """
    try:
        (choice,) = body["choices"]
        ids, stop_reason, usage = list(choice["token_ids"]), choice.get("stop_reason"), body.get("usage") or {}
        if not _are_token_ids(ids) or choice["prompt_token_ids"] != list(prompt_token_ids):
            raise ValueError("its token ids are no token ids, or its prompt is another one")
        reason = _read_finish_reason(choice["finish_reason"], stop_reason)
        rows = _read_logprobs(choice, len(ids), sampling.logprob_token_ids)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        if not isinstance(cached, int):
            raise TypeError(f"cached_tokens is {cached!r:.40}")
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        problem = to_one_line(f"{type(e).__name__}: {e}")[:MAX_MESSAGE]
        raise GenerationError(f"the server's response is not a completion with token ids ({problem})") from e
    if len(ids) > sampling.max_tokens:
        raise GenerationError(f"the server returned {len(ids)} tokens, more than the {sampling.max_tokens} asked for")
    if reason == "eos":
        ids = ids[:-1]  # the end-of-turn token
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    if sampling.regex is not None and reason == "eos" and not re.fullmatch(sampling.regex, text):
        raise GenerationError(f"the server ignored the grammar: its reply {text!r:.80} does not match")
    return Generation(
        text=text,
        token_ids=tuple(ids),
        finish_reason=reason,
        logprobs=tuple(rows[: len(ids)]),
        prompt_tokens=len(prompt_token_ids),
        cached_tokens=cached,
    )


def build_rejection(response: httpx.Response, key: str | None) -> UsageError:
    """Build the error for a response that says that the request cannot be served, now or later.

    Args:
        response: response with a status from 300 to 499.
        key: API key, which servers may repeat in their message.
    """
    message, status = summarize_error(response, key), response.status_code
    if status in (401, 403):
        return AccessError(f"{status}: {message}; give the server's key with --model-key env:NAME or a file")
    if status == 404 or status < 400:
        return AccessError(f"{status}: {message}; check the address and the name of the model")
    return UsageError(f"the server rejected the request: {status}: {message}")


def summarize_error(response: httpx.Response, key: str | None) -> str:
    """Return the server's own message in one line, without the key."""
    message = to_one_line(extract_message(response))
    if key:
        message = message.replace(key, "***")
    return message[:MAX_MESSAGE] or response.reason_phrase


def _are_token_ids(ids: Sequence[Any]) -> bool:
    return all(type(token) is int and token >= 0 for token in ids)


def _read_finish_reason(reason: object, stop_reason: object) -> FinishReason:
    if reason == "length":
        return "length"
    if reason != "stop":
        raise ValueError(f"finish_reason is {reason!r:.40}")
    # The stop reason is a stop string, or the id of an end-of-turn token, or nothing for the model's own one.
    return "stop" if isinstance(stop_reason, str) else "eos"


def _read_logprobs(choice: Mapping[str, Any], length: int, token_ids: Sequence[int]) -> list[dict[int, float]]:
    """Read the log-probabilities of the requested tokens at each position."""
    if not token_ids:
        return []
    rows = choice["logprobs"]["top_logprobs"]
    if len(rows) != length:
        raise ValueError(f"{len(rows)} log-probabilities for {length} tokens")
    return [{token: _read_logprob(row[f"token_id:{token}"]) for token in token_ids} for row in rows]


def _read_logprob(value: Any) -> float:
    if type(value) not in (int, float) or math.isnan(value) or value > 1e-3:
        raise ValueError(f"{value!r:.40} is not a log-probability")
    return -math.inf if value <= LOWEST_LOGPROB else min(0.0, float(value))
