"""Between the web server and the routes: keys are checked, errors become answers, and everything is counted."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flex_judge.judges.errors import AccessError, RenderError, RequestTooLargeError, UsageError, to_one_line
from flex_judge.reward.server.auth import check_api_key
from flex_judge.reward.server.errors import (
    FieldError,
    MediaFetchError,
    MissingMediaError,
    RejectedError,
    RetryLaterError,
)
from flex_judge.reward.server.gateway import Gateway

PUBLIC_PATH = "/healthz"
"""The one route that needs no key."""
CLIENT_CLOSED_STATUS = 499
"""What is counted where the client left before its answer was ready."""
RESOURCES_KEY = "flex_judge.held"
"""Where a request's scope keeps what it occupies until its answer is sent."""
log = logging.getLogger(__name__)


class Middleware:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with ExitStack() as held:
            scope[RESOURCES_KEY] = held
            try:
                try:
                    if scope["path"] != PUBLIC_PATH:
                        check_api_key(Request(scope).headers.get("Authorization"), self._gateway.config.api_key)
                    await self._app(scope, receive, sending)
                except ClientDisconnect:
                    status = CLIENT_CLOSED_STATUS
                except Exception as error:  # the one place where what nobody expected becomes an answer
                    if status:
                        raise  # the answer is half out; the server ends the connection
                    await build_error_response(error)(scope, receive, sending)
            finally:
                route = getattr(scope.get("route"), "path", "other")
                self._gateway.metrics.record_request(route, status or CLIENT_CLOSED_STATUS, time.monotonic() - started)


def build_json_response(
    content: Mapping[str, Any] | bytes, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """JSON in ASCII: texts may hold half a surrogate pair, which UTF-8 cannot."""
    body = content if isinstance(content, bytes) else encode_json(content)
    return Response(body, status, headers, media_type="application/json")


def encode_json(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, allow_nan=False).encode()


def build_error_response(error: Exception) -> Response:
    """What the client is told of an error. Of one that nobody expected, nothing but that there was one."""
    body: dict[str, Any] = {"error": to_one_line(error)}
    if isinstance(error, FieldError) and error.field:
        body["field"] = error.field
    match error:
        case AccessError():
            return build_json_response(body, 401, {"WWW-Authenticate": 'Bearer, Basic realm="flex-judge"'})
        case RequestTooLargeError():
            return build_json_response(body, 413)
        case MissingMediaError():
            return build_json_response(body | {"missing_media": list(error.digests)}, 409)
        case RejectedError():
            results = [None if result is None else result.to_json() for result in error.results]
            return build_json_response(body | {"results": results}, 422)
        case UsageError() | RenderError():
            return build_json_response(body, 422)
        case RetryLaterError():
            return build_json_response(body, 503, {"Retry-After": str(math.ceil(error.retry_after_s))})
        case MediaFetchError():
            return build_json_response(body, 502)
        case HTTPException():
            return build_json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))
    log.error("a request failed", exc_info=error)
    return build_json_response({"error": "the service failed at this request; its log says why"}, 500)
