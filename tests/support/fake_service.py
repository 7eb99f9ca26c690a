"""A judge service on a port of this machine that does what a test tells it to: refuse, hang, break off, lose media."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from flex_judge.judges import Comparison
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.types import Reward, Sample

Act = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Seen:
    """A request that arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return self.headers["idempotency-key"]


class FakeService:
    """Does one act of its script for each POST, and then answers: a completion's score is the length of its text."""

    def __init__(self, *script: Act, needs_media: bool = False) -> None:
        self.script = deque(script)
        self.always: Act | None = None
        self.well = True
        self.needs_media = needs_media
        self.seen: list[Seen] = []
        self.uploads: list[str] = []
        self.media: set[str] = set()
        self.probes = 0
        self.most_at_once = 0
        self._at_once = 0
        app = Starlette(
            routes=[
                Route("/v1/judge", self._post, methods=["POST"]),
                Route("/v1/rewards", self._post, methods=["POST"]),
                Route("/v1/media/{modality}/{digest}", self._put, methods=["PUT"]),
                Route("/healthz", self._healthz),
            ]
        )
        options = {"log_level": "critical", "timeout_graceful_shutdown": 0, "lifespan": "off"}
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> FakeService:
        self._thread.start()
        while not self._server.started:
            threading.Event().wait(0.005)
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def _post(self, request: Request) -> Response:
        self.seen.append(Seen(request.url.path, dict(request.headers), await request.json()))
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            act = self.script.popleft() if self.script else self.always
            return await act(request) if act else await self.answer(request)
        finally:
            self._at_once -= 1

    async def answer(self, request: Request) -> Response:
        body = await request.json()
        missing = [digest for digest in _digests(body) if digest not in self.media]
        if missing:
            return JSONResponse({"error": "unknown media", "missing_media": missing}, 409)
        if "samples" in body:
            return JSONResponse({"rewards": [_reward(row).to_json() for row in body["samples"]]})
        return JSONResponse({"judgments": [_judgment(row).to_json() for row in body["comparisons"]]})

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


def _digests(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [value["digest"]] if set(value) == {"digest"} else [d for one in value.values() for d in _digests(one)]
    return [d for one in value for d in _digests(one)] if isinstance(value, list) else []


def _reward(row: dict[str, Any]) -> Reward:
    score = float(len(row["response"]))
    return Reward(score, Status.OK, score=score, expected=score, reasoning="I counted.", judgments=1)


def _judgment(row: dict[str, Any]) -> Judgment:
    scores = tuple(float(len(response)) for response in row["responses"])
    return Judgment(row["id"], Status.OK, scores, None, "I counted.")


def refused(status: int, error: str = "no", **headers: str) -> Act:
    """An answer of this status, with an error body."""

    async def act(request: Request) -> Response:
        return JSONResponse({"error": error}, status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return act


def unscored(status: Status) -> Act:
    """An answer in which everything has this status."""

    async def act(request: Request) -> Response:
        rows = [Reward(None, status, detail="not today").to_json() for _ in (await request.json())["samples"]]
        return JSONResponse({"rewards": rows})

    return act


async def hang(request: Request) -> Response:
    """No answer, for longer than any test takes."""
    while not await request.is_disconnected():  # so that a server that is told to end can
        await asyncio.sleep(0.01)
    return Response()


async def break_off(request: Request) -> Response:
    """The beginning of an answer, and then the connection is gone."""

    async def beginning() -> Any:
        yield b'{"rewards": ['

    return StreamingResponse(beginning(), headers={"Content-Length": "1000"})


async def gibberish(request: Request) -> Response:
    """An answer of this protocol in form alone."""
    return Response(json.dumps({"rewards": []}))


def client_of(service: FakeService, **settings: float) -> JudgeClient:
    return replace(JudgeClient(service.url, deadline_s=30, retry_s=0.01, probe_s=5), **settings)


def hasty(service: FakeService) -> JudgeClient:
    """One for calls that are to fail: it soon gives up."""
    return client_of(service, deadline_s=0.2, probe_s=0.2)


def sample(prompt: str, response: str) -> Sample:
    return Sample(Comparison.of(prompt, response).prompt, response)
