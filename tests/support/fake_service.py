"""Fake judge service on a local port with scripted faults: refuse, hang, disconnect, lose media."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flex_judge.judges import Comparison
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.types import Reward, Sample

Action = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class ReceivedRequest:
    """Request that the service received."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]


class ScriptedServer:
    """Server on a local port that runs one scripted action for each request; afterwards it answers regularly."""

    def __init__(self, routes: Sequence[Route], script: Iterable[Action] = ()) -> None:
        self.script = deque(script)
        self.always: Action | None = None
        """Action for the requests after those of the script; None answers regularly."""
        self.running = self.max_concurrent = self.ended = 0
        options = {"log_level": "critical", "timeout_graceful_shutdown": 0, "lifespan": "off"}
        self._server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), port=0, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.005)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server; its port is free afterwards."""
        self._server.should_exit = True
        self._thread.join(10)

    async def run_next(self, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
        """Run the next action of the script, or answer."""
        self.running += 1
        self.max_concurrent = max(self.max_concurrent, self.running)
        try:
            action = self.script.popleft() if self.script else self.always
            return await (action(request) if action else answer())
        finally:
            self.running -= 1
            self.ended += 1


class FakeService(ScriptedServer):
    """Service that runs one scripted action for each POST; afterwards it scores texts by their length."""

    def __init__(self, *script: Action, needs_media: bool = False) -> None:
        routes = [
            Route("/v1/judge", self._post, methods=["POST"]),
            Route("/v1/rewards", self._post, methods=["POST"]),
            Route("/v1/media/{modality}/{digest}", self._put, methods=["PUT"]),
            Route("/healthz", self._healthz),
        ]
        super().__init__(routes, script)
        self.well = True
        self.needs_media = needs_media
        self.seen: list[ReceivedRequest] = []
        self.uploads: list[str] = []
        self.media: set[str] = set()
        self.probes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _post(self, request: Request) -> Response:
        self.seen.append(ReceivedRequest(request.url.path, dict(request.headers), await request.json()))
        return await self.run_next(request, lambda: self.answer(request))

    async def answer(self, request: Request) -> Response:
        """Return the regular response."""
        body = await request.json()
        missing = [digest for digest in _find_digests(body) if digest not in self.media]
        if missing:
            return JSONResponse({"error": "unknown media", "missing_media": missing}, 409)
        if "samples" in body:
            return JSONResponse({"rewards": [_make_reward(row).to_json() for row in body["samples"]]})
        return JSONResponse({"judgments": [_make_judgment(row).to_json() for row in body["comparisons"]]})

    async def _put(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        await request.body()
        await asyncio.sleep(0.01)
        self.uploads.append(digest)
        self.media.add(digest)
        return JSONResponse({"digest": digest})

    async def _healthz(self, request: Request) -> Response:
        self.probes += 1
        return JSONResponse({"status": "ok" if self.well else "draining"}, 200 if self.well else 503)


def _find_digests(value: Any) -> list[str]:
    if isinstance(value, dict):
        return (
            [value["digest"]]
            if set(value) == {"digest"}
            else [d for item in value.values() for d in _find_digests(item)]
        )
    return [d for item in value for d in _find_digests(item)] if isinstance(value, list) else []


def _make_reward(row: dict[str, Any]) -> Reward:
    score = float(len(row["response"]))
    return Reward(score, Status.OK, score=score, expected=score, reasoning="I counted.", judgments=1)


def _make_judgment(row: dict[str, Any]) -> Judgment:
    scores = tuple(float(len(response)) for response in row["responses"])
    return Judgment(row["id"], Status.OK, scores, None, "I counted.")


def refuse(status: int, error: str = "no", **headers: str) -> Action:
    """Make an action that returns this status with an error body."""

    async def act(request: Request) -> Response:
        return JSONResponse({"error": error}, status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return act


def return_unscored(status: Status) -> Action:
    """Make an action that returns this status for all items."""

    async def act(request: Request) -> Response:
        rows = [Reward(None, status, detail="not today").to_json() for _ in (await request.json())["samples"]]
        return JSONResponse({"rewards": rows})

    return act


async def hang(request: Request) -> Response:
    """Never respond."""
    while not await request.is_disconnected():  # lets the server shut down
        await asyncio.sleep(0.01)
    return Response()


async def disconnect(request: Request) -> Response:
    """Start a response and close the connection."""

    async def send_beginning() -> Any:
        yield b'{"rewards": ['

    return StreamingResponse(send_beginning(), headers={"Content-Length": "1000"})


async def return_no_results(request: Request) -> Response:
    """Return valid JSON without any result."""
    return Response(json.dumps({"rewards": []}))


def make_client(service: FakeService, **settings: float) -> JudgeClient:
    return replace(JudgeClient(service.url, deadline_s=30, retry_s=0.01, probe_s=5), **settings)


def impatient_client(service: FakeService) -> JudgeClient:
    """Create a client that gives up quickly, for calls that must fail."""
    return make_client(service, deadline_s=0.2, probe_s=0.2)


def make_sample(prompt: str, response: str) -> Sample:
    return Sample(Comparison.of(prompt, response).prompt, response)
