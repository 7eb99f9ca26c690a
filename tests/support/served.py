"""Judge service in a thread of this process, for tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from flex_judge.experiments.commands.serve import run as serve
from flex_judge.judges import FlexJudge
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.routes import create_app

START_S, POLL_S = 10.0, 0.01


class Served:
    """ASGI application on its own port, which can be stopped and restarted at the same address."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """Take a function that creates the application, called on each start: state is lost as after a crash."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.requests: list[tuple[str, str]] = []
        """Method and path of every request."""
        self._make = make
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        app = self._make()

        async def record_and_run(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                self.requests.append((scope["method"], scope["path"]))
            await app(scope, receive, send)

        server = uvicorn.Server(
            uvicorn.Config(record_and_run, port=self.port, log_level="error", timeout_graceful_shutdown=1)
        )
        self._server, self._thread = server, threading.Thread(target=server.run, daemon=True)
        self._thread.start()
        for _ in range(round(START_S / POLL_S)):
            if server.started:
                return
            time.sleep(POLL_S)
        raise TimeoutError(f"nothing listens at {self.url} after {START_S:g} s")

    def stop(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
        self._server = self._thread = None


class ServedJudge(Served):
    """Judge behind the gateway, without Ray."""

    def __init__(self, judge: FlexJudge, config: GatewayConfig) -> None:
        super().__init__(lambda: create_app(Gateway(judge.ajudge, config)))


@contextmanager
def served(judge: FlexJudge, config: GatewayConfig | None = None) -> Iterator[ServedJudge]:
    """Serve a judge in a thread of this process until the block ends."""
    service = ServedJudge(judge, config or GatewayConfig())
    service.start()
    try:
        yield service
    finally:
        service.stop()


def free_port() -> int:
    return serve.find_free_port("127.0.0.1", 0)
