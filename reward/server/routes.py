"""HTTP routes of the service as a FastAPI application, for Ray Serve, uvicorn, or a test transport."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from flex_judge.judges.errors import MediaError, RequestTooLargeError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.judges.media.types import Modality
from flex_judge.reward.server import openrlhf
from flex_judge.reward.server.adapters import AdapterVersion
from flex_judge.reward.server.auth import MAX_BODY_DEPTH, check_structure, parse_strict_json, read_body
from flex_judge.reward.server.decoding import decode_comparison
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.idempotency import KEY_HEADER
from flex_judge.reward.server.info import ServiceInfo, add_info_routes
from flex_judge.reward.server.json_responses import build_json_response, check_json_type, encode_json
from flex_judge.reward.server.media_decoding import name_rows
from flex_judge.reward.server.middleware import RESOURCES_KEY, Middleware, build_error_response
from flex_judge.reward.server.openapi import build_operation, install_openapi
from flex_judge.reward.server.request_log import log_texts, record_answer, record_results
from flex_judge.reward.server.row_failures import RowFailure, try_row
from flex_judge.reward.server.schemas import (
    JudgeRequest,
    OpenRlhfRequest,
    RewardsRequest,
    SlimeRequest,
    validate_request,
)
from flex_judge.reward.types import Reward, RewardSpec

M = TypeVar("M", bound=BaseModel)
RouteFunction = Callable[[Request], Coroutine[Any, Any, Response]]
RemainingTime = Callable[[], float | None]
"""Function that returns the remaining seconds of a request; None without a deadline."""
Handler = Callable[[Gateway, M, RemainingTime], Coroutine[Any, Any, Any]]
"""Function that computes the JSON response of a parsed request."""
MAX_KEY_LENGTH = 255
SLIME_DEADLINE_S = 110.0
"""Time limit of /rm in seconds; slime waits 120 s."""
UPLOAD_MODALITIES = (Modality.IMAGE, Modality.VIDEO, Modality.AUDIO)
log = logging.getLogger(__name__)


def create_app(gateway: Gateway, info: ServiceInfo | None = None, sends_request_id: bool = True) -> FastAPI:
    """Create the web application of a gateway. It closes the gateway when it shuts down.

    Args:
        gateway: the gateway.
        info: facts about the service for its clients.
        sends_request_id: whether responses get the header X-Request-ID; False if a server in front adds it.

    Example:
        >>> app = create_app(Gateway(judge.ajudge))
        >>> uvicorn.run(app, port=8000)
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(
        title="flex-judge",
        description="A reasoning multimodal judge as a reward model.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's own page loads scripts from other hosts
        redoc_url=None,
    )
    app.add_middleware(Middleware, gateway=gateway, sends_request_id=sends_request_id)
    app.add_exception_handler(HTTPException, _handle_http_error)  # raised by the router: 404, 405
    posts: dict[str, tuple[type[BaseModel], Handler[Any]]] = {
        "/v1/judge": (JudgeRequest, _handle_judge),
        "/v1/rewards": (RewardsRequest, _handle_rewards),
        "/get_reward": (OpenRlhfRequest, _handle_get_reward),
        "/rm": (SlimeRequest, _handle_rm),
    }
    for path, (model, handler) in posts.items():
        app.add_api_route(path, _make_post_route(gateway, model, handler), methods=["POST"], **build_operation(path))
    path = "/v1/media/{modality}/{digest}"
    app.add_api_route(path, _make_media_route(gateway), methods=["PUT"], **build_operation(path))
    add_info_routes(app, gateway, info or ServiceInfo())
    install_openapi(app)
    return app


def _make_post_route(gateway: Gateway, model: type[M], handler: Handler[M]) -> RouteFunction:
    """Make a route that accepts JSON."""

    async def post(request: Request) -> Response:
        received_at = time.monotonic()
        adapter = await gateway.adapters.pin_current()
        key = _read_idempotency_key(request, adapter)
        await gateway.sleep.prepare_request()
        gateway.check_accepting(key)
        check_json_type(request)
        resources = request.scope[RESOURCES_KEY]
        reserve_bytes = resources.enter_context(gateway.bodies.reserve_body())
        body = await read_body(request, gateway.config.max_body_mib, reserve_bytes)
        resources.enter_context(gateway.track_work())
        parsed, fingerprint = await asyncio.to_thread(_parse_request, model, body, gateway.config.max_text_mib)
        del body  # frees its memory while the request waits for the judge

        def get_remaining_s() -> float | None:
            deadline_s: float | None = getattr(parsed, "deadline_s", None)
            return None if deadline_s is None else deadline_s - (time.monotonic() - received_at)

        async def compute_answer() -> bytes:
            with gateway.adapters.hold():
                answer = await handler(gateway, parsed, get_remaining_s)
            log_texts(parsed, answer)
            return encode_json(answer)

        work = compute_answer() if key is None else gateway.run_once(key, fingerprint, compute_answer)
        answer = await _run_until_disconnect(request, work)
        record_answer(parsed)
        return build_json_response(answer)

    return post


async def _handle_judge(gateway: Gateway, request: JudgeRequest, get_remaining_s: RemainingTime) -> Mapping[str, Any]:
    _check_item_count(gateway, request.comparisons, "comparisons")
    rows = name_rows(_name_fields(request.comparisons, "comparisons"), decode_comparison)
    items = await gateway.media_decoder.decode_rows(rows)
    for i, (item, row) in enumerate(zip(items, request.comparisons, strict=True)):
        if isinstance(item, RowFailure) and isinstance(row, dict) and isinstance(row.get("id"), str):
            items[i] = replace(item, id=row["id"])
    judgments = await gateway.judge_comparisons(items, get_remaining_s())
    record_results(judgments)
    return {"judgments": [judgment.to_json() for judgment in judgments]}


async def _handle_rewards(
    gateway: Gateway, request: RewardsRequest, get_remaining_s: RemainingTime
) -> Mapping[str, Any]:
    _check_item_count(gateway, request.samples, "samples")
    try:
        spec = RewardSpec.from_fields(request)
    except UsageError as e:  # its message starts with the name of the field
        field, _, problem = str(e).partition(" ")
        raise FieldError.at_field(field, problem) from e
    gateway.rubrics.find_rubric(spec.rubric)
    samples = await gateway.media_decoder.decode_samples(_name_fields(request.samples, "samples"))
    rewards = await gateway.compute_rewards([(sample, spec) for sample in samples], get_remaining_s())
    record_results(rewards)
    return {"rewards": [reward.to_json() for reward in rewards]}


async def _handle_get_reward(gateway: Gateway, request: OpenRlhfRequest, _: RemainingTime) -> Mapping[str, Any]:
    config = gateway.config
    _check_item_count(gateway, request.query, "query")
    labels = request.labels or [None] * len(request.query)
    for name, values in (("prompts", request.prompts), ("labels", labels)):
        if len(values) != len(request.query):
            raise FieldError.at_field(name, f"expected {len(request.query)}, one for each query, got {len(values)}")
    texts = enumerate(zip(request.query, request.prompts, labels, strict=True))
    rows = [openrlhf.read_query(query, prompt, label, i, config.end_of_turn) for i, (query, prompt, label) in texts]
    rewards, specs = await _judge_labelled_rows(gateway, rows, config.openrlhf_deadline_s, path="/get_reward")
    rubrics = [gateway.rubrics.find_rubric(spec.rubric) for spec in specs]
    return openrlhf.build_response(rewards, rubrics)


async def _handle_rm(gateway: Gateway, request: SlimeRequest, _: RemainingTime) -> float | None:
    config = gateway.config
    row = openrlhf.LabelledRow(request.prompt, request.response, request.label, "labels[0]", config.end_of_turn)
    deadline_s = min(config.openrlhf_deadline_s, SLIME_DEADLINE_S)
    (reward,), _specs = await _judge_labelled_rows(gateway, [row], deadline_s, path="/rm")
    return reward.value


async def _judge_labelled_rows(
    gateway: Gateway, rows: Sequence[openrlhf.LabelledRow], deadline_s: float, *, path: str
) -> tuple[list[Reward], list[RewardSpec]]:
    """Judge the rows of a remote reward model, each with the rubric of its label or the configured one.

    Args:
        gateway: the gateway.
        rows: the rows.
        deadline_s: time limit in seconds.
        path: path of the route, for the log.

    Returns:
        The reward and the definition of the reward of each row.
    """
    configured = gateway.config.openrlhf
    specs = []
    for row in rows:
        spec = configured if row.rubric is None else replace(configured, rubric=row.rubric)
        resolved = try_row(partial(gateway.resolve_spec, spec, f"{row.field}.rubric"))
        if isinstance(resolved, RowFailure) and row.rubric is not None:
            row.reject(resolved.detail)
            spec = configured
        specs.append(spec)
    samples = await gateway.media_decoder.decode_samples([(row.field, row.json) for row in rows])
    rewards = await gateway.compute_rewards(list(zip(samples, specs, strict=True)), deadline_s, "labels")
    record_results(rewards)
    for reward in rewards:
        if reward.status == Status.INVALID_INPUT:  # the answers of these routes have no place for the reason
            log.warning("%s: %s", path, reward.detail)
    return rewards, specs


def _make_media_route(gateway: Gateway) -> RouteFunction:
    async def upload(request: Request) -> Response:
        modality, digest = request.path_params["modality"], request.path_params["digest"]
        if modality not in UPLOAD_MODALITIES:
            names = ", ".join(UPLOAD_MODALITIES)
            raise FieldError.at_field("modality", f"expected one of {names}, got {modality[:60]!r}")
        reserve_bytes = request.scope[RESOURCES_KEY].enter_context(gateway.bodies.reserve_body())
        data = await read_body(request, gateway.config.max_body_mib, reserve_bytes)
        try:
            await asyncio.to_thread(gateway.store.put, Modality(modality), digest, data)
        except MediaError as e:
            raise FieldError.at_field("body", e) from e
        return build_json_response({"digest": digest})

    return upload


async def _handle_http_error(request: Request, error: Exception) -> Response:  # noqa: ARG001
    return build_error_response(error)


async def _run_until_disconnect(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """Run work and return its result; cancel it if the client disconnects first."""
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _parse_request(model: type[M], body: bytes, max_text_mib: int) -> tuple[M, str]:
    """Parse a request and compute the fingerprint of its content.

    The fingerprint excludes `deadline_s`: a client that repeats a request has less time left.
    """
    check_structure(body, max_text_mib)
    value = parse_strict_json(body, max_depth=MAX_BODY_DEPTH)
    parsed = validate_request(model, value)
    content = json.dumps({name: v for name, v in value.items() if name != "deadline_s"}, sort_keys=True)
    return parsed, hashlib.sha256(content.encode()).hexdigest()


def _read_idempotency_key(request: Request, adapter: AdapterVersion) -> str | None:
    """Read the Idempotency-Key of a request; path and adapter are part of it, so each has its own keys."""
    key = request.headers.get(KEY_HEADER)
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise FieldError.at_field(KEY_HEADER, f"expected from 1 to {MAX_KEY_LENGTH} characters, got {len(key)}")
    return f"{request.scope['path']} {adapter.key} {key}"


def _name_fields(rows: list[Any], name: str) -> list[tuple[str, Any]]:
    """Pair each row with its field, such as `samples[0]`."""
    return [(f"{name}[{i}]", row) for i, row in enumerate(rows)]


def _check_item_count(gateway: Gateway, items: list[Any], field: str) -> None:
    limit = gateway.config.max_items
    if len(items) > limit:
        raise RequestTooLargeError(
            f"{field}: {len(items)} are more than the {limit} allowed (max_items); send several requests"
        )
