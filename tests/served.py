"""A judge served over HTTP, for tests: in a thread of this process, or by Ray Serve."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn

from judges import FlexJudge
from reward.cluster import connect
from reward.config import ServiceConfig
from reward.gateway import Gateway, GatewayConfig
from reward.routes import asgi_app
from reward.service import HttpAddress, JudgeService

START_S = 10.0


class Served:
    """An ASGI application on a port of its own that can go away and come back at the same address."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, app: Any) -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="error", timeout_graceful_shutdown=1))
        self._server, self._thread = server, threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        waited = threading.Event()
        for _ in range(round(START_S / 0.01)):
            if server.started:
                return
            waited.wait(0.01)
        raise TimeoutError(f"nothing listens at {self.url} after {START_S:g} s")

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None


class ServedJudge(Served):
    """A judge behind the gateway, without Ray."""

    def __init__(self, judge: FlexJudge, config: GatewayConfig) -> None:
        super().__init__()
        self.requests: list[tuple[str, str]] = []
        """Method and path of every HTTP request."""
        self._judge = judge
        self._config = config

    def start(self, app: Any = None) -> None:
        """Start, or start again: with a new gateway that remembers nothing, as after a crash."""
        inner = app or asgi_app(Gateway(self._judge.ajudge, self._config))

        async def noted(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.requests.append((scope["method"], scope["path"]))
            await inner(scope, receive, send)

        super().start(noted)


@contextmanager
def served(judge: FlexJudge, config: GatewayConfig | None = None) -> Iterator[ServedJudge]:
    """A judge served by a thread of this process."""
    service = ServedJudge(judge, config or GatewayConfig())
    service.start()
    try:
        yield service
    finally:
        service.stop()


@asynccontextmanager
async def served_by_ray(config: ServiceConfig) -> AsyncIterator[JudgeService]:
    """A judge on a Ray of this test's own; `url` of what is yielded is its address, `ready` waits for its replicas."""
    with connect() as cluster:
        async with JudgeService(config.placed_on(cluster), HttpAddress(port=free_port())) as service:
            yield service


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port
