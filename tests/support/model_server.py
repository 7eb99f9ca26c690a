"""Model server on a local port that speaks vLLM's completions with token ids, with scripted faults.

Its model is the scripted engine, so `checkpoint` holds a tokenizer and a configuration only.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn
from fake_service import Action
from scripts import fair_judge
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.scripted import Script, ScriptedEngine, build_byte_tokenizer

EOS = 257
"""Id of `<|im_end|>` in the byte tokenizer."""


def write_checkpoint(folder: Path) -> Path:
    """Write the tokenizer of the scripted engine, and a configuration, as a checkpoint without weights."""
    build_byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    return folder


def reply(prompt: str, sampling: Sampling) -> str:
    """Judge like `fair_judge`; name a digit where only digits are allowed."""
    return "7" if sampling.regex == "(?:0|1|2|3|4|5|6|7|8|9)" else fair_judge(prompt, sampling)


class ModelServer:
    """Server of one model, `judge`. It runs one scripted action for each completion after those of the start."""

    def __init__(self, folder: Path, key: str | None = None, script: Script = reply) -> None:
        self.engine = ScriptedEngine(script, max_model_len=4096)
        self.script: deque[Action] = deque()
        self.always: Action | None = None
        self.root, self.key = str(folder), key
        self.changes: dict[str, Any] = {}
        """Fields of a completion that the server returns in place of its own; None leaves the field out."""
        self.ignored: set[str] = set()
        """Fields of requests that the server does not know."""
        self.extra_models: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []
        self.running = self.max_running = self.ended = 0
        app = Starlette(
            routes=[
                Route("/v1/models", self._list_models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/health", lambda _: Response()),
                Route("/version", lambda _: JSONResponse({"version": "0.32.0"})),
            ]
        )
        options = {"log_level": "critical", "timeout_graceful_shutdown": 0, "lifespan": "off"}
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, **options))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> ModelServer:
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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def model(self) -> str:
        return f"{self.url}#judge"

    async def _list_models(self, request: Request) -> Response:
        if rejection := self._check_key(request):
            return rejection
        card = {"id": "judge", "owned_by": "vllm", "root": self.root, "parent": None, "max_model_len": 4096}
        return JSONResponse({"object": "list", "data": [card, *self.extra_models]})

    async def _complete(self, request: Request) -> Response:
        if rejection := self._check_key(request):
            return rejection
        body = await request.json()
        self.bodies.append(body)
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            action = self.script.popleft() if self.script else self.always
            return await action(request) if action else await self.answer(body)
        finally:
            self.running -= 1
            self.ended += 1

    async def answer(self, body: dict[str, Any]) -> Response:
        """Return the regular response."""
        body = {name: value for name, value in body.items() if name not in self.ignored}
        prompt = body["prompt"]
        if isinstance(prompt, str):
            prompt = self.engine.tokenizer.encode(prompt, add_special_tokens=False)
        sampling = Sampling(
            body["max_tokens"],
            body["temperature"],
            stop=tuple(body["stop"]),
            regex=body.get("structured_outputs", {}).get("regex"),
            logprob_token_ids=tuple(body.get("logprob_token_ids", ())),
        )
        generation = await self.engine.generate(prompt, sampling)
        choice = _build_choice(generation, sampling)
        if body.get("return_token_ids"):
            choice["prompt_token_ids"] = prompt
        else:
            del choice["token_ids"]
        choice = {name: value for name, value in {**choice, **self.changes}.items() if value is not None}
        usage = {"prompt_tokens": len(prompt), "prompt_tokens_details": {"cached_tokens": 5}}
        return JSONResponse({"choices": [choice], "usage": usage})

    def _check_key(self, request: Request) -> Response | None:
        header = request.headers.get("authorization", "")
        if self.key is None or header == f"Bearer {self.key}":
            return None
        return JSONResponse({"error": f"Unauthorized: {header}"}, 401)  # some servers repeat the key


def _build_choice(generation: Generation, sampling: Sampling) -> dict[str, Any]:
    """Build a choice of vLLM's response: the end-of-turn token is one of its tokens."""
    ids, reason = list(generation.token_ids), generation.finish_reason
    if reason == "eos" and len(ids) == sampling.max_tokens:
        reason = "length"  # no room for the end-of-turn token
    rows = [{f"token_id:{t}": max(p, -9999.0) for t, p in row.items()} for row in generation.logprobs]
    if reason == "eos":
        ids.append(EOS)
        rows.append({f"token_id:{t}": -9999.0 for t in sampling.logprob_token_ids})
    return {
        "text": generation.text,
        "token_ids": ids,
        "finish_reason": "length" if reason == "length" else "stop",
        "stop_reason": "a stop string" if reason == "stop" else None,
        "logprobs": {"top_logprobs": rows},
    }
