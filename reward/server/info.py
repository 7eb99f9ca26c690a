"""Routes that describe a service: health, models, rubrics, versions, metrics, and the page of the HTTP API."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

import flex_judge
from flex_judge.judges.engines.recording.ledger import SCHEMA
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.reward.server.adapters import AdapterVersion
from flex_judge.reward.server.auth import parse_strict_json, read_body
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.info_schemas import (
    AdapterCard,
    AdapterRequest,
    AdaptersResponse,
    ModelCard,
    ModelsResponse,
    RubricCard,
    RubricsResponse,
    SleepRequest,
    SleepResponse,
    VersionResponse,
    WakeRequest,
)
from flex_judge.reward.server.json_responses import build_json_response, check_json_type
from flex_judge.reward.server.openapi import build_operation
from flex_judge.reward.server.schemas import validate_request
from flex_judge.reward.wire import WIRE_VERSION

M = TypeVar("M", bound=BaseModel)
HEALTH_TIMEOUT_S = 2.0
"""Limit for asking about replicas during a scrape, below Prometheus' own limit of 10 s."""


@dataclass(frozen=True, kw_only=True)
class ServiceInfo:
    """Facts about a service that its clients may know."""

    model: str = "unknown"
    """Name of the judge's model, without folders."""
    started_at: int = field(default_factory=lambda: int(time.time()))
    """Unix time."""


def add_info_routes(app: FastAPI, gateway: Gateway, info: ServiceInfo) -> None:
    """Add the routes to the application of a gateway."""

    async def report_health(_: Request) -> Response:
        is_healthy, report = await gateway.get_health()
        return build_json_response(report, 200 if is_healthy else 503)

    async def list_models(_: Request) -> Response:
        version = await gateway.adapters.get_current()
        card = ModelCard(id=gateway.adapters.model or info.model, created=version.created or info.started_at)
        return _build_response(ModelsResponse(data=[card]))

    async def list_adapters(_: Request) -> Response:
        version = await gateway.adapters.get_current()
        card = _describe_adapter(gateway, info, version)
        return _build_response(AdaptersResponse(adapters=[card], allows_updates=gateway.adapters.allows_updates))

    async def read_request(request: Request, model: type[M]) -> M:
        """Read a request that changes the service."""
        if gateway.draining:
            gateway.check_capacity(1)
        if request.method == "POST":
            check_json_type(request)
        with gateway.bodies.reserve_body() as reserve_bytes:
            body = await read_body(request, 1, reserve_bytes)
        return validate_request(model, parse_strict_json(body))

    async def replace_adapter(request: Request) -> Response:
        parsed = await read_request(request, AdapterRequest)
        await gateway.sleep.find_level()
        version = await gateway.adapters.replace(request.path_params["name"], parsed.path)
        return _build_response(_describe_adapter(gateway, info, version))

    async def put_to_sleep(request: Request) -> Response:
        level = (await read_request(request, SleepRequest)).level
        return _describe_sleep(await gateway.sleep.sleep(level))

    async def wake_up(request: Request) -> Response:
        await read_request(request, WakeRequest)
        return _describe_sleep(await gateway.sleep.wake())

    async def list_rubrics(_: Request) -> Response:
        return _build_response(await asyncio.to_thread(_describe_rubrics, gateway))

    async def report_version(_: Request) -> Response:
        return _build_response(get_version())

    async def report_metrics(request: Request) -> Response:
        is_ready, report = await _get_health(gateway)
        replicas = report.get("replicas")  # absent if the judge runs in this process
        gateway.metrics.set_health(is_ready, replicas if isinstance(replicas, int) else int(is_ready))
        gateway.metrics.set_sleep_level(report.get("sleep_level", 0))
        gateway.metrics.set_memory(gateway.bodies.bytes, gateway.store.bytes)
        body, content_type = gateway.metrics.render(request.headers.get("Accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def show_docs(_: Request) -> Response:
        from flex_judge.reward.server.docs_page import CONTENT_SECURITY_POLICY, build_page

        headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
        return HTMLResponse(await asyncio.to_thread(build_page, app.openapi()), headers=headers)

    routes: dict[str, Callable[[Request], Coroutine[Any, Any, Response]]] = {
        "/v1/adapters": list_adapters,
        "/v1/models": list_models,
        "/v1/rubrics": list_rubrics,
        "/version": report_version,
        "/metrics": report_metrics,
        "/healthz": report_health,
    }
    for path, route in routes.items():
        app.add_api_route(path, route, methods=["GET"], **build_operation(path))
    for path, route in {"/v1/sleep": put_to_sleep, "/v1/wake": wake_up}.items():
        app.add_api_route(path, route, methods=["POST"], **build_operation(path))
    path = "/v1/adapters/{name}"
    app.add_api_route(path, replace_adapter, methods=["PUT"], **build_operation(path))
    app.add_api_route("/docs", show_docs, methods=["GET"], include_in_schema=False)


def get_version() -> VersionResponse:
    """Return the versions of this installation."""
    return VersionResponse(version=flex_judge.__version__, wire_version=WIRE_VERSION, ledger_format=SCHEMA)


def describe_rubric(name: str, rubric: Rubric) -> RubricCard:
    """Describe a rubric without its texts and its path.

    Args:
        name: name in requests.
        rubric: the rubric.
    """
    content = {key: value for key, value in asdict(rubric).items() if key != "name"}
    minimum, maximum = rubric.responses
    return RubricCard(
        name=name,
        kind="options" if rubric.has_options else "scores",
        scale=None if rubric.has_options else str(rubric.scale),
        min_responses=minimum,
        max_responses=maximum,
        digest=hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest(),
    )


def _describe_sleep(level: int) -> Response:
    return _build_response(SleepResponse.model_validate({"asleep": level > 0, "level": level}))


def _describe_adapter(gateway: Gateway, info: ServiceInfo, version: AdapterVersion) -> AdapterCard:
    return AdapterCard(
        name=version.name or None,
        fingerprint=version.fingerprint or None,
        model=gateway.adapters.name_model(version) or info.model,
        created=version.created,
    )


def _describe_rubrics(gateway: Gateway) -> RubricsResponse:
    names = gateway.rubrics.list_names()
    return RubricsResponse(rubrics=[describe_rubric(name, gateway.rubrics.find_rubric(name)) for name in names])


async def _get_health(gateway: Gateway) -> tuple[bool, dict[str, Any]]:
    """Return the health of a service; while its cluster does not answer, it counts as not ready."""
    try:
        return await asyncio.wait_for(gateway.get_health(), HEALTH_TIMEOUT_S)
    except Exception:  # noqa: BLE001 - a scrape must work best while something else fails
        return False, {"replicas": 0}


def _build_response(model: BaseModel) -> Response:
    return build_json_response(model.model_dump(mode="json"))
