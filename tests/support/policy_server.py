"""What asynchronous trainers ask of a policy's server, for tests: random tokens, the same for the same seed."""

from __future__ import annotations

import random

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

TEXT = range(32, 290)
"""Token ids of a tiny checkpoint that stand for text."""


async def completions(request: Request) -> JSONResponse:
    """`POST /v1/completions` as AsyncGRPO's worker calls it: tokens in, tokens and their log-probabilities out."""
    asked = await request.json()
    draw = random.Random(asked["seed"])
    ids = [draw.choice(TEXT) for _ in range(asked["max_tokens"])]
    return JSONResponse({"choices": [{"token_ids": ids, "logprobs": {"token_logprobs": [-1.0] * len(ids)}}]})


def app() -> Starlette:
    return Starlette(routes=[Route("/v1/completions", completions, methods=["POST"])])
