"""HTTP servers of drivers: a proxy that records what the judge is sent, and a policy with scripted replies."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle
from typing import Any

HOP_HEADERS = ("host", "connection", "content-length", "accept-encoding")
"""Request headers that a proxy sets itself."""


class RecordingProxy:
    """Proxy in front of the judge service that keeps the body of every POST."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.bodies: list[Any] = []

    @property
    def samples(self) -> list[dict[str, Any]]:
        """All samples of the recorded requests."""
        return [sample for body in self.bodies for sample in body["samples"]]


@contextmanager
def record_requests(target: str) -> Iterator[RecordingProxy]:
    """Run a recording proxy for a service until the block ends."""
    proxy = RecordingProxy(target)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.command == "POST":
                proxy.bodies.append(json.loads(body))
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_HEADERS}
            data = body if self.command in ("POST", "PUT") else None
            request = urllib.request.Request(proxy.target + self.path, data, headers, method=self.command)
            try:
                with urllib.request.urlopen(request) as response:
                    status, answer_headers, answer = response.status, response.headers, response.read()
            except urllib.error.HTTPError as e:
                status, answer_headers, answer = e.code, e.headers, e.read()
            self.send_response(status)
            for name, value in answer_headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = do_PUT = forward  # noqa: N815 - names of http.server

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with _run_server(Handler) as proxy.url:
        yield proxy


@contextmanager
def serve_policy(replies: Iterable[str]) -> Iterator[str]:
    """Serve `POST /v1/chat/completions`, also as a stream, with the given replies in turn, until the block ends.

    Yields:
        The base URL, which ends with `/v1`.
    """
    remaining, lock = cycle(replies), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            with lock:
                message = {"role": "assistant", "content": next(remaining)}
            answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "policy"}
            choice = {"index": 0, "finish_reason": "stop"}
            answer["usage"] = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            if request.get("stream"):
                chunk = {**answer, "object": "chat.completion.chunk", "choices": [{**choice, "delta": message}]}
                body, content_type = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n", "text/event-stream"
            else:
                body, content_type = (
                    json.dumps({**answer, "choices": [{**choice, "message": message}]}),
                    "application/json",
                )
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with _run_server(Handler) as url:
        yield f"{url}/v1"


@contextmanager
def _run_server(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on a free port in a thread until the block ends, and yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
