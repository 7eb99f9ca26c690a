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
from flex_judge.reward.server.auth import parse_strict_json, read_body
from flex_judge.reward.server.decoding import decode_comparison, decode_sample
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.idempotency import KEY_HEADER
from flex_judge.reward.server.middleware import (
    RESOURCES_KEY,
    Middleware,
    build_error_response,
    build_json_response,
    encode_json,
)
from flex_judge.reward.server.openapi import build_operation, install_openapi
from flex_judge.reward.server.schemas import JudgeRequest, OpenRlhfRequest, RewardsRequest, validate_request
from flex_judge.reward.types import RewardSpec

M = TypeVar("M", bound=BaseModel)
Route = Callable[[Request], Coroutine[Any, Any, Response]]
Work = Callable[[Gateway, M, Callable[[], float | None]], Coroutine[Any, Any, Mapping[str, Any]]]
"""What a route does with a request; the last argument tells how many seconds it still has."""
MAX_KEY_LENGTH = 255
UPLOAD_MODALITIES = (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO)


def create_app(gateway: Gateway) -> FastAPI:
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
    app.add_exception_handler(HTTPException, _handle_http_error)  # of the router: 404, 405
    posts: dict[str, tuple[type[BaseModel], Work[Any]]] = {
        "/v1/judge": (JudgeRequest, _handle_judge),
        "/v1/rewards": (RewardsRequest, _handle_rewards),
        "/get_reward": (OpenRlhfRequest, _handle_get_reward),
    }
    for path, (model, work) in posts.items():
        app.add_api_route(path, _make_post_route(gateway, model, work), methods=["POST"], **build_operation(path))
    path = "/v1/media/{modality}/{digest}"
    app.add_api_route(path, _make_media_route(gateway), methods=["PUT"], **build_operation(path))
    app.add_api_route("/healthz", _make_health_route(gateway), methods=["GET"], **build_operation("/healthz"))
    install_openapi(app)
    return app


def _make_post_route(gateway: Gateway, model: type[M], work: Work[M]) -> Route:
    """A route that takes JSON."""

    async def route(request: Request) -> Response:
        received = time.monotonic()
        key = _read_idempotency_key(request)
        gateway.check_accepting(key)
        if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
            # Else any page in a browser on this machine could send requests without asking.
            raise HTTPException(415, "send JSON, with the header 'Content-Type: application/json'")
        held = request.scope[RESOURCES_KEY]
        body = await read_body(request, gateway.config.max_body_mib, held.enter_context(gateway.bodies.reserve_body()))
        held.enter_context(gateway.track_work())
        asked, fingerprint = await asyncio.to_thread(_parse_request, model, body)
        del body

        def left_s() -> float | None:
            told: float | None = getattr(asked, "deadline_s", None)
            return None if told is None else told - (time.monotonic() - received)

        async def answer() -> bytes:
            return encode_json(await work(gateway, asked, left_s))

        if key is None:
            return build_json_response(await _run_until_disconnect(request, answer()))
        return build_json_response(await _run_until_disconnect(request, gateway.run_once(key, fingerprint, answer)))

    return route


async def _handle_judge(gateway: Gateway, asked: JudgeRequest, left_s: Callable[[], float | None]) -> Mapping[str, Any]:
    _check_item_count(gateway, asked.comparisons, "comparisons")
    fields = (f"comparisons[{i}]" for i in range(len(asked.comparisons)))
    rows = [(f, partial(decode_comparison, row, f)) for f, row in zip(fields, asked.comparisons, strict=True)]
    comparisons = await gateway.media_decoder.decode_rows(rows)
    return {"judgments": [j.to_json() for j in await gateway.judge_comparisons(comparisons, left_s())]}


async def _handle_rewards(
    gateway: Gateway, asked: RewardsRequest, left_s: Callable[[], float | None]
) -> Mapping[str, Any]:
    _check_item_count(gateway, asked.samples, "samples")
    try:
        spec = RewardSpec(**{field.name: getattr(asked, field.name) for field in fields(RewardSpec)})
    except UsageError as e:  # which begins with the name of the field
        field, _, problem = str(e).partition(" ")
        raise FieldError.at_field(field, problem) from e
    gateway.rubrics.find_rubric(spec.rubric)
    places = (f"samples[{i}]" for i in range(len(asked.samples)))
    rows = [(f, partial(decode_sample, row, f)) for f, row in zip(places, asked.samples, strict=True)]
    samples = await gateway.media_decoder.decode_rows(rows)
    return {"rewards": [r.to_json() for r in await gateway.compute_rewards([(s, spec) for s in samples], left_s())]}


async def _handle_get_reward(
    gateway: Gateway, asked: OpenRlhfRequest, _: Callable[[], float | None]
) -> Mapping[str, Any]:
    config = gateway.config
    _check_item_count(gateway, asked.query, "query")
    labels = asked.labels or [None] * len(asked.query)
    for name, given in (("prompts", asked.prompts), ("labels", labels)):
        if len(given) != len(asked.query):
            raise FieldError.at_field(
                name, f"expected {len(asked.query)}, as many as there are queries, got {len(given)}"
            )
    texts = enumerate(zip(asked.query, asked.prompts, labels, strict=True))
    rows = [openrlhf.OpenRlhfRow(*told, i, config.end_of_turn) for i, told in texts]
    specs = [config.openrlhf if row.rubric is None else replace(config.openrlhf, rubric=row.rubric) for row in rows]
    rubrics = [
        gateway.rubrics.find_rubric(s.rubric, field=f"{r.field}.rubric") for s, r in zip(specs, rows, strict=True)
    ]
    samples = await gateway.media_decoder.decode_rows([(row.field, row.build_sample) for row in rows])
    try:
        rewards = await gateway.compute_rewards(list(zip(samples, specs, strict=True)), config.openrlhf_deadline_s)
    except FieldError as e:  # results of others are not told: a request of OpenRLHF has one sample
        name = "labels" if e.field.endswith(".baseline") else "query"
        raise FieldError(*(text.replace("samples[", f"{name}[", 1) for text in (str(e), e.field))) from e
    return openrlhf.build_response(rewards, rubrics)


def _make_media_route(gateway: Gateway) -> Route:
    async def route(request: Request) -> Response:
        modality, digest = request.path_params["modality"], request.path_params["digest"]
        if modality not in UPLOAD_MODALITIES:
            raise FieldError.at_field(
                "modality", f"expected one of {', '.join(UPLOAD_MODALITIES)}, got {modality[:60]!r}"
            )
        held = request.scope[RESOURCES_KEY]
        data = await read_body(request, gateway.config.max_body_mib, held.enter_context(gateway.bodies.reserve_body()))
        try:
            await asyncio.to_thread(gateway.store.put, Modality(modality), digest, data)
        except MediaError as e:
            raise FieldError.at_field("body", e) from e
        return build_json_response({"digest": digest})

    return route


def _make_health_route(gateway: Gateway) -> Route:
    async def route(_: Request) -> Response:
        well, told = await gateway.get_health()
        return build_json_response(told, 200 if well else 503)

    return route


async def _handle_http_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return build_error_response(error)


async def _run_until_disconnect(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """The result of some work, which is cancelled if the client goes away before it is there."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parse_request(model: type[M], body: bytes) -> tuple[M, str]:
    """A request, and a fingerprint of what it asks. How long it may take is no part of that: a client that asks again
    has less time left.
    """
    value = parse_strict_json(body)
    asked = validate_request(model, value)
    what = json.dumps({name: v for name, v in value.items() if name != "deadline_s"}, sort_keys=True)
    return asked, hashlib.sha256(what.encode()).hexdigest()


def _read_idempotency_key(request: Request) -> str | None:
    """The request's Idempotency-Key, which is its own on each route."""
    key = request.headers.get(KEY_HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise FieldError.at_field(KEY_HEADER, f"expected from 1 to {MAX_KEY_LENGTH} characters, got {len(key)}")
    return f"{request.scope['path']} {key}"


def _check_item_count(gateway: Gateway, items: list[Any], field: str) -> None:
    if len(items) > gateway.config.max_items:
        most = gateway.config.max_items
        raise RequestTooLargeError(f"{field}: {len(items)} are more than the {most} allowed; send several requests")
