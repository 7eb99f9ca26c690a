"""The service's routes, as a FastAPI application. Runs in Ray Serve, in uvicorn, or under a test's transport."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flex_judge.judges.errors import MediaError, RequestTooLargeError, UsageError
from flex_judge.judges.media.types import Modality
from flex_judge.reward.server import openrlhf
from flex_judge.reward.server.auth import read_body, strict_json
from flex_judge.reward.server.decoding import comparison_from_json, sample_from_json
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.idempotency import FIELD
from flex_judge.reward.server.middleware import HELD, Middleware, encoded, error_response, json_answer
from flex_judge.reward.server.openapi import describe, operation
from flex_judge.reward.server.schemas import JudgeRequest, OpenRlhfRequest, RewardsRequest, validated
from flex_judge.reward.types import RewardSpec

M = TypeVar("M", bound=BaseModel)
Route = Callable[[Request], Coroutine[Any, Any, Response]]
Work = Callable[[Gateway, M, Callable[[], float | None]], Coroutine[Any, Any, Mapping[str, Any]]]
"""What a route does with a request; the last argument tells how many seconds it still has."""
LONGEST_KEY = 255
UPLOADED = (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO)


def asgi_app(gateway: Gateway) -> FastAPI:
    """The web application around a gateway, which it closes when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(
        title="flex-judge",
        description="A reasoning multimodal judge as a reward model.",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.add_middleware(Middleware, gateway=gateway)
    app.add_exception_handler(HTTPException, _http_error)  # of the router: 404, 405
    posts: dict[str, tuple[type[BaseModel], Work[Any]]] = {
        "/v1/judge": (JudgeRequest, _judge),
        "/v1/rewards": (RewardsRequest, _rewards),
        "/get_reward": (OpenRlhfRequest, _get_reward),
    }
    for path, (model, work) in posts.items():
        app.add_api_route(path, _posted(gateway, model, work), methods=["POST"], **operation(path))
    path = "/v1/media/{modality}/{digest}"
    app.add_api_route(path, _media(gateway), methods=["PUT"], **operation(path))
    app.add_api_route("/healthz", _healthz(gateway), methods=["GET"], **operation("/healthz"))
    describe(app)
    return app


def _posted(gateway: Gateway, model: type[M], work: Work[M]) -> Route:
    """A route that takes JSON."""

    async def route(request: Request) -> Response:
        received = time.monotonic()
        key = _key(request)
        gateway.check_open(key)
        if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            # Else any page in a browser on this machine could send requests without asking.
            raise HTTPException(415, "send JSON, with the header 'Content-Type: application/json'")
        held = request.scope[HELD]
        body = await read_body(request, gateway.config.max_body_mib, held.enter_context(gateway.bodies.one()))
        held.enter_context(gateway.occupied())
        asked, fingerprint = await asyncio.to_thread(_parsed, model, body)
        del body

        def left_s() -> float | None:
            told: float | None = getattr(asked, "deadline_s", None)
            return None if told is None else told - (time.monotonic() - received)

        async def answer() -> bytes:
            return encoded(await work(gateway, asked, left_s))

        if key is None:
            return json_answer(await _unless_gone(request, answer()))
        return json_answer(await _unless_gone(request, gateway.once(key, fingerprint, answer)))

    return route


async def _judge(gateway: Gateway, asked: JudgeRequest, left_s: Callable[[], float | None]) -> Mapping[str, Any]:
    _check_count(gateway, asked.comparisons, "comparisons")
    fields = (f"comparisons[{i}]" for i in range(len(asked.comparisons)))
    rows = [(f, partial(comparison_from_json, row, f)) for f, row in zip(fields, asked.comparisons, strict=True)]
    comparisons = await gateway.media_decoder.read(rows)
    return {"judgments": [j.to_json() for j in await gateway.judge(comparisons, left_s())]}


async def _rewards(gateway: Gateway, asked: RewardsRequest, left_s: Callable[[], float | None]) -> Mapping[str, Any]:
    _check_count(gateway, asked.samples, "samples")
    try:
        spec = RewardSpec(**{field.name: getattr(asked, field.name) for field in fields(RewardSpec)})
    except UsageError as e:  # which begins with the name of the field
        field, _, problem = str(e).partition(" ")
        raise FieldError.at(field, problem) from e
    gateway.rubrics.find(spec.rubric)
    places = (f"samples[{i}]" for i in range(len(asked.samples)))
    rows = [(f, partial(sample_from_json, row, f)) for f, row in zip(places, asked.samples, strict=True)]
    samples = await gateway.media_decoder.read(rows)
    return {"rewards": [r.to_json() for r in await gateway.rewards([(s, spec) for s in samples], left_s())]}


async def _get_reward(gateway: Gateway, asked: OpenRlhfRequest, _: Callable[[], float | None]) -> Mapping[str, Any]:
    config = gateway.config
    _check_count(gateway, asked.query, "query")
    labels = asked.labels or [None] * len(asked.query)
    for name, given in (("prompts", asked.prompts), ("labels", labels)):
        if len(given) != len(asked.query):
            raise FieldError.at(name, f"expected {len(asked.query)}, as many as there are queries, got {len(given)}")
    texts = enumerate(zip(asked.query, asked.prompts, labels, strict=True))
    rows = [openrlhf.Row(*told, i, config.end_of_turn) for i, told in texts]
    specs = [config.openrlhf if row.rubric is None else replace(config.openrlhf, rubric=row.rubric) for row in rows]
    rubrics = [gateway.rubrics.find(s.rubric, field=f"{r.field}.rubric") for s, r in zip(specs, rows, strict=True)]
    samples = await gateway.media_decoder.read([(row.field, row.sample) for row in rows])
    try:
        rewards = await gateway.rewards(list(zip(samples, specs, strict=True)), config.openrlhf_deadline_s)
    except FieldError as e:  # results of others are not told: a request of OpenRLHF has one sample
        name = "labels" if e.field.endswith(".baseline") else "query"
        raise FieldError(*(text.replace("samples[", f"{name}[", 1) for text in (str(e), e.field))) from e
    return openrlhf.answer(rewards, rubrics)


def _media(gateway: Gateway) -> Route:
    async def route(request: Request) -> Response:
        modality, digest = request.path_params["modality"], request.path_params["digest"]
        if modality not in UPLOADED:
            raise FieldError.at("modality", f"expected one of {', '.join(UPLOADED)}, got {modality[:60]!r}")
        held = request.scope[HELD]
        data = await read_body(request, gateway.config.max_body_mib, held.enter_context(gateway.bodies.one()))
        try:
            await asyncio.to_thread(gateway.store.put, Modality(modality), digest, data)
        except MediaError as e:
            raise FieldError.at("body", e) from e
        return json_answer({"digest": digest})

    return route


def _healthz(gateway: Gateway) -> Route:
    async def route(_: Request) -> Response:
        well, told = await gateway.health()
        return json_answer(told, 200 if well else 503)

    return route


async def _http_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return error_response(error)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """The result of some work, which is cancelled if the client goes away before it is there."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parsed(model: type[M], body: bytes) -> tuple[M, str]:
    """A request, and a fingerprint of what it asks. How long it may take is no part of that: a client that asks again
    has less time left."""
    value = strict_json(body)
    asked = validated(model, value)
    what = json.dumps({name: v for name, v in value.items() if name != "deadline_s"}, sort_keys=True)
    return asked, hashlib.sha256(what.encode()).hexdigest()


def _key(request: Request) -> str | None:
    """The request's Idempotency-Key, which is its own on each route."""
    key = request.headers.get(FIELD)
    if key is None:
        return None
    if not 1 <= len(key) <= LONGEST_KEY:
        raise FieldError.at(FIELD, f"expected from 1 to {LONGEST_KEY} characters, got {len(key)}")
    return f"{request.scope['path']} {key}"


def _check_count(gateway: Gateway, items: list[Any], field: str) -> None:
    if len(items) > gateway.config.max_items:
        most = gateway.config.max_items
        raise RequestTooLargeError(f"{field}: {len(items)} are more than the {most} allowed; send several requests")
