"""Gateway with a judge that can be held, and HTTP clients without a network."""

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
    """Scripted judge that holds candidates beginning with `slow` until `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.started: Counter[str] = Counter()
        """Number of times that the reasoning about each (last) candidate was started."""
        self.cancelled: Counter[str] = Counter()
        self.judge = FlexJudge(ScriptedEngine(self._script), replace(SETTINGS, forced_answer=False))

    async def _script(self, prompt: str, sampling: Sampling) -> str:
        candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
        if sampling.stop == ("</think>",):
            self.started[candidate] += 1
            if candidate.startswith("slow"):
                try:
                    await self.go.wait()
                except asyncio.CancelledError:
                    self.cancelled[candidate] += 1
                    raise
        return fair_judge(prompt, sampling)

    def gateway(self, config: GatewayConfig | None = None, **options: Any) -> Gateway:
        """Create a gateway with this judge."""
        return Gateway(self.judge.ajudge, config, **options)


@asynccontextmanager
async def client(gateway: Gateway, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """Open a client to the gateway's application."""
    transport = httpx.ASGITransport(create_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://judge", **options) as http:
        yield http
    await gateway.close()


def comparisons(*responses: str, **fields: Any) -> dict[str, Any]:
    """Build a request to /v1/judge with one comparison per response."""
    rows = [{"prompt": "Question?", "responses": [r], "id": f"id of {r}", **fields} for r in responses]
    return {"comparisons": rows}


def samples(*responses: str, **fields: Any) -> dict[str, Any]:
    """Build a request to /v1/rewards with completions of one prompt."""
    return {"samples": [{"prompt": "Question?", "response": r} for r in responses], **fields}


def get_results(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the judgments or rewards in an answer."""
    assert answer.status_code == 200, answer.text
    (rows,) = answer.json().values()
    return list(rows)


def get_statuses(answer: httpx.Response) -> list[str]:
    """Return the statuses of the judgments or rewards in an answer."""
    return [row["status"] for row in get_results(answer)]


async def wait_until(condition: Any) -> None:
    """Wait until a condition is true; fails after two seconds."""
    async with asyncio.timeout(2):
        while not condition():
            await asyncio.sleep(0.001)
