"""Fake policy server for asynchronous trainers: random tokens, equal for equal seeds."""

from __future__ import annotations

import random

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

TEXT = range(32, 290)
"""Token ids of text in the tiny checkpoints."""


async def completions(request: Request) -> JSONResponse:
    """Handle `POST /v1/completions` of AsyncGRPO's worker: tokens in, tokens and log-probabilities out."""
    body = await request.json()
    rng = random.Random(body["seed"])
    ids = [rng.choice(TEXT) for _ in range(body["max_tokens"])]
    return JSONResponse({"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}]})


def app() -> Starlette:
    return Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
