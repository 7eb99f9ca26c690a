"""Runs with an endpoint as policy and a service as judge: they start no Ray, count live and resume."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripts import SETTINGS, fair_judge
from served import Served, served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flex_judge.alignment.pipeline.models import RemoteJudge
from flex_judge.experiments.cli import main
from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import AccessError
from flex_judge.judges.io.jsonl import read_rows, write_rows
from flex_judge.reward.serving import cluster


async def complete(request: Request) -> JSONResponse:
    """Answer with the right sum and with wrong ones."""
    body = await request.json()
    prompt = body["messages"][-1]["content"]
    if "reject" in prompt:
        return JSONResponse({"error": {"message": "no such question"}}, 400)
    await asyncio.sleep(0.01)
    numbers = [int(n) for n in re.findall(r"\d+", prompt)]
    text = f"The result is {sum(numbers[:2]) + body.get('seed', 0) % 3}."
    choices = [{"message": {"content": text}, "finish_reason": "stop"}] * body.get("n", 1)
    return JSONResponse({"choices": choices, "usage": {"completion_tokens": 5 * len(choices)}})


async def list_models(_: Request) -> JSONResponse:
    return JSONResponse({"data": [{"id": "sums"}]})


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Run an endpoint and a service where no Ray can be started, and return the flags for them."""

    def refuse(*_: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(cluster, "start_ray", refuse)
    monkeypatch.chdir(tmp_path)
    routes = [Route("/v1/chat/completions", complete, methods=["POST"]), Route("/v1/models", list_models)]
    endpoint = Served(lambda: Starlette(routes=routes))
    endpoint.start()
    try:
        with served(FlexJudge(ScriptedEngine(fair_judge), SETTINGS)) as service:
            policy = ["--policy-url", endpoint.url, "--policy", "sums"]
            yield [*policy, "--judge-url", service.url, "--rubric", "correctness", "--samples", "3", "--out", "run"]
    finally:
        endpoint.stop()


def write_prompts(*prompts: str) -> str:
    rows = [{"id": str(i), "prompt": prompt} for i, prompt in enumerate(prompts)]
    write_rows(Path("prompts.jsonl"), rows)
    return "prompts.jsonl"


def read_table(name: str) -> list[dict[str, Any]]:
    return list(read_rows(Path("run", name)))


@pytest.mark.parametrize(("command", "table"), [("best-of-n", "best_of_n.jsonl"), ("preferences", "completions.jsonl")])
def test_two_urls_need_no_ray(urls: list[str], command: str, table: str, capfd: pytest.CaptureFixture[str]) -> None:
    prompts = [*(f"What is {i} + 3?" for i in range(7)), "reject this"]
    file = write_prompts(*prompts)
    status = main([command, file, *urls, "--json-progress", "--max-failures", "1"])
    assert status == 0
    assert len({row["id"].partition("/")[0] for row in read_table(table)}) == 7
    assert [row["id"] for row in read_table("failed.jsonl")] == ["7"]
    rows = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    last = {row["phase"]: row for row in rows if row["state"] == "done"}
    assert set(last) == {"sampling", "judging", "prompts"}
    assert (last["prompts"]["done"], last["prompts"]["total"], last["prompts"]["failed"]) == (8, 8, 1)
    assert last["sampling"]["done"] == last["sampling"]["total"] == 21
    assert last["judging"]["done"] == last["judging"]["total"]
    assert not list(Path("run").rglob("counts-*"))
    assert main([command, file, *urls, "--max-failures", "1"]) == 0
    assert "is complete: nothing is sampled or judged again" in capfd.readouterr().err


def test_an_error_of_every_row_ends_the_run_and_a_rerun_completes_it(
    urls: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_prompts(*(f"What is {i} + 3?" for i in range(5)))

    async def reject(_: object) -> None:
        raise AccessError("the key was revoked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RemoteJudge, "make_ask", lambda _: reject)
        assert main(["best-of-n", file, *urls]) == 2
    assert "the key was revoked" in capfd.readouterr().err
    assert main(["best-of-n", file, *urls]) == 0
    assert len(read_table("best_of_n.jsonl")) == 5
