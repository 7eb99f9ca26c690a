"""Limits of Ray Serve's HTTP proxy: size and time of request heads, rate of bodies, and number of connections.

Ray Serve runs uvicorn with httptools, which bounds none of them: one connection that sends a header without end slows
down all others and exhausts the memory of the proxy. Serve calls `install_limits` in each proxy process, because
`flex_judge.reward.serving.cluster` sets RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH. Only the proxies import this module.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import uvicorn.protocols.http.auto
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from flex_judge.reward.serving import PROXY_BODY_VARIABLE

MAX_HEAD_BYTES = 64 << 10
"""Maximum size of a request line with all headers."""
HEAD_TIMEOUT_S = 15.0
"""Time limit for a whole head, from the start of a connection or from the first byte of a later head."""
BODY_GRACE_S, MIN_BODY_RATE = 30.0, 16 << 10
"""Time limit for a body: these seconds, and one more for each MIN_BODY_RATE bytes that were received."""
LINGER_S = 1.0
"""Time between the refusal of a connection and its end."""
ANSWERED_BODY_S = 5.0
"""Time that a body may continue after its response."""
MAX_CONNECTIONS = 4096
"""Maximum number of connections to one proxy. Above it, the oldest one that waits for a head is closed."""
MAX_PIPELINED = 16
"""Maximum number of requests that a connection may send before their responses."""
MIN_FILES = 16_384
"""Number of open files that a proxy needs for these connections."""
DEFAULT_BODY_MIB = 64
MIB = 1 << 20
HIDDEN_PATH = "/-/routes"
"""Route of Serve that lists its applications to everyone."""
CONTROL_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"serve")
"""Beginnings of headers with which a client could change Serve's handling of its request."""


class LimitedHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 connection of uvicorn with limits for everything that a client may send before it is authenticated."""

    _idle_connections: ClassVar[WeakKeyDictionary[ServerState, OrderedDict[LimitedHttpProtocol, None]]] = (
        WeakKeyDictionary()
    )
    """Connections of a server that wait for a head, longest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle = self._idle_connections.setdefault(self.server_state, OrderedDict())
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._is_refused = False
        self._head_bytes = 0
        self._body_bytes = self._raw_body_bytes = 0
        self._body_began = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, close the one that has waited longest for a head."""
        super().connection_made(transport)
        self._idle[self] = None
        self._start_timer(HEAD_TIMEOUT_S, self._end_head)
        if len(self.connections) > MAX_CONNECTIONS:
            oldest = next(iter(self._idle))  # this connection itself, if all others are busy
            oldest.refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again later")
            oldest.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        self._idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse received bytes in pieces, so that no head grows beyond its limit."""
        if self._is_refused:
            return
        if self._in_head and self._timer is None:
            self._start_timer(HEAD_TIMEOUT_S, self._end_head)
        position = 0
        while position < len(data) and not (self._is_refused or self.transport.is_closing()):
            was_in_head = self._in_head
            end = position + MAX_HEAD_BYTES - (self._head_bytes if was_in_head else 0)
            piece = data[position:end]
            position += len(piece)
            if was_in_head:
                self._head_bytes += len(piece)
            else:
                self._raw_body_bytes += len(piece)
            super().data_received(piece)
            if self._is_refused:
                return
            if was_in_head and self._in_head and self._head_bytes >= MAX_HEAD_BYTES:
                limit = f"the head of a request may have {MAX_HEAD_BYTES >> 10} KiB"
                self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, limit)
            # Extensions of chunks and trailers without end, and tiny chunks, cost more than the body is worth.
            elif not self._in_head and self._raw_body_bytes > 2 * self._body_bytes + MAX_HEAD_BYTES:
                self.refuse(HTTPStatus.BAD_REQUEST, "the chunks of the body are too small, or have too long extensions")

    def on_headers_complete(self) -> None:
        """Start a request, and the time limit of its body."""
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many pipelined requests")  # the caller answers with status 400 and closes
        self._in_head = False
        self._idle.pop(self, None)
        self._body_bytes = self._raw_body_bytes = 0
        self._body_began = time.monotonic()
        self._start_timer(BODY_GRACE_S, self._check_body_rate)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Receive a part of the body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Finish a request; the next bytes are another head."""
        self._stop_timer()
        self._in_head = True
        self._head_bytes = 0
        super().on_message_complete()
        self._mark_idle()

    def on_response_complete(self) -> None:
        """Finish a response; a body that is still arriving is discarded for a while, see `refuse`."""
        super().on_response_complete()
        self._mark_idle()
        if not self._in_head:
            self._start_timer(ANSWERED_BODY_S, self.transport.close)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._stop_timer()
        self._idle.pop(self, None)
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text is not JSON
        """Answer a request that the parser rejects."""
        self.refuse(HTTPStatus.BAD_REQUEST, "the request is not valid HTTP/1.1")

    def refuse(self, status: HTTPStatus, problem: str) -> None:
        """Answer, if no other response is expected or under way, and close the connection.

        It stays open for a moment, in which received bytes are discarded: a connection with unread bytes would be
        reset, and the client could lose the answer.
        """
        self._is_refused = True
        self._idle.pop(self, None)
        is_answered = self.cycle is None or self.cycle.response_complete
        if is_answered if self._in_head else not self.cycle.response_started:
            body = json.dumps({"error": problem}).encode()
            headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
            self.transport.write(f"HTTP/1.1 {status.value} {status.phrase}\r\n{headers}\r\n".encode() + body)
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._start_timer(LINGER_S, self.transport.close)

    def _mark_idle(self) -> None:
        if self._in_head and self.cycle.response_complete and not self.pipeline:
            self._idle[self] = None

    def _start_timer(self, seconds: float, callback: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, callback)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _end_head(self) -> None:
        if self.pipeline:  # the server itself does not read while a pipelined request waits for its turn
            self._start_timer(HEAD_TIMEOUT_S, self._end_head)
        elif not self._head_bytes:
            self.transport.close()
        else:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the head of a request must arrive within {HEAD_TIMEOUT_S:g} s")

    def _check_body_rate(self) -> None:
        """Close the connection if the body comes too slowly; otherwise check again later."""
        allowed_s = BODY_GRACE_S + self._body_bytes / MIN_BODY_RATE
        remaining_s = allowed_s - (time.monotonic() - self._body_began)
        if remaining_s > 0 or self.pipeline:
            self._start_timer(max(1.0, remaining_s), self._check_body_rate)
        else:
            rate = f"{MIN_BODY_RATE >> 10} KiB per second after {BODY_GRACE_S:g} s"
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, f"the body arrives too slowly; send at least {rate}")


class ProxyGuard:
    """ASGI middleware of the proxy: bounds bodies before they wait in its memory, and hides what clients need not see.

    The gateway repeats the check of the size with its own setting; here it protects the proxy, which stores a body
    until the gateway has taken it.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = f"the request is larger than the {self._max_body_bytes / MIB:g} MiB allowed"
        size = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if scope["path"] == HIDDEN_PATH:
            await _respond(send, HTTPStatus.NOT_FOUND, "not found")
        elif not all(_is_utf8(name) and _is_utf8(value) for name, value in scope["headers"]):
            await _respond(send, HTTPStatus.BAD_REQUEST, "the headers must be UTF-8")  # Serve would answer 500
        elif size.isdigit() and int(size[:20]) > self._max_body_bytes:
            await _respond(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)
        else:
            headers = [(name, value) for name, value in scope["headers"] if not name.startswith(CONTROL_HEADERS)]
            await self._run_app({**scope, "headers": headers}, receive, send, too_large)

    async def _run_app(self, scope: Scope, receive: Receive, send: Send, too_large: str) -> None:
        """Run the application; if the body grows too large, the application sees a disconnect and the client 413."""
        received = 0
        is_started = False

        async def receive_limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return {"type": "http.disconnect"} if received > self._max_body_bytes else message

        async def send_limited(message: Message) -> None:
            nonlocal is_started
            if is_started or received <= self._max_body_bytes:
                is_started = True
                await send(message)

        try:
            await self._app(scope, receive_limited, send_limited)
        except Exception:
            if received <= self._max_body_bytes:
                raise
        if not is_started and received > self._max_body_bytes:
            await _respond(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, too_large)


def install_limits() -> list[Middleware]:
    """Install the limits in this process; Ray Serve calls this before it starts an HTTP proxy.

    Returns:
        The middleware that Serve puts around its proxy.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MIN_FILES if hard == resource.RLIM_INFINITY else min(MIN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    # Serve offers no setting for the protocol class; uvicorn looks this name up when the server starts.
    uvicorn.protocols.http.auto.AutoHTTPProtocol = LimitedHttpProtocol
    max_body_mib = int(os.environ.get(PROXY_BODY_VARIABLE, DEFAULT_BODY_MIB))
    return [Middleware(ProxyGuard, max_body_bytes=max_body_mib * MIB)]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _respond(send: Send, status: HTTPStatus, problem: str) -> None:
    body = json.dumps({"error": problem}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})
