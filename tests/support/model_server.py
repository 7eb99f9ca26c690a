"""Model server on a local port that speaks vLLM's completions with token ids, with scripted faults.

Its model is the scripted engine, so `checkpoint` holds a tokenizer and a configuration only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fake_service import ScriptedServer
from scripts import fair_judge
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


class ModelServer(ScriptedServer):
    """Server of one model, `judge`. It runs one scripted action for each completion after those of the start."""

    def __init__(self, folder: Path, key: str | None = None, script: Script = reply) -> None:
        super().__init__(
            [
                Route("/v1/models", self._list_models),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/health", lambda _: Response()),
                Route("/version", lambda _: JSONResponse({"version": "0.32.0"})),
            ]
        )
        self.engine = ScriptedEngine(script, max_model_len=4096)
        self.root, self.key = str(folder), key
        self.changes: dict[str, Any] = {}
        """Fields of a completion that the server returns in place of its own; None leaves the field out."""
        self.ignored: set[str] = set()
        """Fields of requests that the server does not know."""
        self.extra_models: list[dict[str, Any]] = []
        self.bodies: list[dict[str, Any]] = []

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
        return await self.run_next(request, lambda: self.answer(body))

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
