"""ASGI middleware between the web server and the routes: API key check, error responses, and request metrics."""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flex_judge.judges.errors import (
    AccessError,
    IncompatibleVersionError,
    RenderError,
    RequestTooLargeError,
    UsageError,
    to_one_line,
)
from flex_judge.reward.server.auth import check_api_key
from flex_judge.reward.server.errors import FieldError, MissingMediaError, RetryLaterError
from flex_judge.reward.server.gateway import Gateway
from flex_judge.reward.server.json_responses import build_json_response
from flex_judge.reward.server.request_log import ID_HEADER, OTHER_ROUTE, get_request_id, log_request, start_record
from flex_judge.reward.wire import WIRE_HEADER, WIRE_VERSION, check_client_version

PUBLIC_PATH = "/healthz"
"""The only route that needs no key, so that load balancers can probe it."""
CLIENT_CLOSED_STATUS = 499
"""Status in the metrics if the client disconnected before the response."""
RESOURCES_KEY = "flex_judge.held"
"""Key of the ExitStack in a request's scope whose resources are released after the response."""
log = logging.getLogger(__name__)


class Middleware:
    """ASGI middleware around all routes."""

    def __init__(self, app: ASGIApp, gateway: Gateway, sends_request_id: bool = True) -> None:
        """Wrap an application.

        Args:
            app: the application.
            gateway: its gateway.
            sends_request_id: whether responses get the header X-Request-ID; False if a server in front adds it.
        """
        self._app = app
        self._gateway = gateway
        self._sends_request_id = sends_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0
        record = start_record(scope)

        async def send_and_record(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(WIRE_HEADER.lower().encode(), WIRE_VERSION.encode())]
                if self._sends_request_id:
                    headers.append((ID_HEADER.lower().encode(), record.id.encode()))
                message = {**message, "headers": [*message.get("headers", ()), *headers]}
            await send(message)

        with ExitStack() as resources:
            scope[RESOURCES_KEY] = resources
            try:
                try:
                    if scope["path"] != PUBLIC_PATH:
                        authorization = Request(scope).headers.get("Authorization")
                        record.key_name = check_api_key(authorization, self._gateway.config.api_key)
                        check_client_version(Request(scope).headers.get(WIRE_HEADER))
                    await self._app(scope, receive, send_and_record)
                except ClientDisconnect:
                    status = CLIENT_CLOSED_STATUS
                except Exception as error:  # every error becomes a response, including unexpected ones
                    if status:
                        raise  # the response has started; the server closes the connection
                    await build_error_response(error)(scope, receive, send_and_record)
            finally:
                route = getattr(scope.get("route"), "path", OTHER_ROUTE)
                seconds, status = time.monotonic() - started, status or CLIENT_CLOSED_STATUS
                self._gateway.metrics.record_request(route, status, seconds)
                log_request(record, scope, route, status, seconds)


def build_error_response(error: Exception) -> Response:
    """Build the response for an error. An unexpected error is logged, and its message is not sent to the client."""
    body: dict[str, Any] = {"error": to_one_line(error)}
    if isinstance(error, FieldError) and error.field:
        body["field"] = error.field
    # The order matters: several of these types are subclasses of UsageError.
    match error:
        case AccessError():
            # Offering Basic makes browsers ask for the key on /docs.
            return build_json_response(body, 401, {"WWW-Authenticate": 'Bearer, Basic realm="flex-judge"'})
        case IncompatibleVersionError():
            return build_json_response(body | {"wire_version": WIRE_VERSION}, 400)
        case RequestTooLargeError():
            return build_json_response(body, 413)
        case MissingMediaError():
            return build_json_response(body | {"missing_media": list(error.digests)}, 409)
        case UsageError() | RenderError():
            return build_json_response(body, 422)
        case RetryLaterError():
            return build_json_response(body, 503, {"Retry-After": str(math.ceil(error.retry_after_s))})
        case HTTPException():
            return build_json_response({"error": error.detail}, error.status_code, dict(error.headers or {}))
    request_id = get_request_id()
    log.error("the request %s failed", request_id, exc_info=error)
    problem = f"the request failed because of an internal error; look for {request_id} in the service's log"
    return build_json_response({"error": f"{problem}, whose file `flex-judge serve` names when it starts"}, 500)
