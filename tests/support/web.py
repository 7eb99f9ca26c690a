"""Gateways for tests: a judge that can be paused, and its HTTP service without a network."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
from scripts import SETTINGS, fair_judge

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.routes import create_app


class HeldJudge:
    """Scripted judge that waits on candidates starting with `slow` until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.begun: Counter[str] = Counter()
        """Candidate (the last one of a prompt) -> how often its judging was started."""
        self.given_up: Counter[str] = Counter()
        """Candidate -> how often its judging was cancelled."""
        self.judge = FlexJudge(ScriptedEngine(self._script), replace(SETTINGS, forced_answer=False))

    async def _script(self, prompt: str, sampling: Sampling) -> str:
        candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
        if sampling.stop == ("</think>",):
            self.begun[candidate] += 1
            if candidate.startswith("slow"):
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.given_up[candidate] += 1
                    raise
        return fair_judge(prompt, sampling)

    def gateway(self, config: GatewayConfig | None = None, **options: Any) -> Gateway:
        return Gateway(self.judge.ajudge, config, **options)


@asynccontextmanager
async def client(gateway: Gateway, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client for the gateway's application; close the gateway afterwards."""
    transport = httpx.ASGITransport(create_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://judge", **options) as http:
        yield http
    await gateway.close()


def comparisons(*responses: str, **rest: Any) -> dict[str, Any]:
    """Build the body of a pointwise request to /v1/judge."""
    rows = [{"prompt": "Question?", "responses": [r], "id": f"id of {r}", **rest} for r in responses]
    return {"comparisons": rows}


def samples(*responses: str, **rest: Any) -> dict[str, Any]:
    """Build the body of a request to /v1/rewards: completions of one prompt."""
    return {"samples": [{"prompt": "Question?", "response": r} for r in responses], **rest}


async def until(condition: Any) -> None:
    """Run other tasks until the condition holds, for two seconds at most."""
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)
