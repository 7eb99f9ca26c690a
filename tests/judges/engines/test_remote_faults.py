"""The remote engine and a server with faults: requests are repeated or fail with a type, and never become numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_service import disconnect, hang, refuse
from model_server import ModelServer, write_checkpoint
from processes import wait_until_lost
from scripts import SETTINGS
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from flex_judge.judges import Comparison, EngineConfig, FlexJudge, Status
from flex_judge.judges.engines import Engine, Generation, Sampling, load_engine
from flex_judge.judges.engines.remote.transport import AdaptiveLimit
from flex_judge.judges.errors import AccessError, EngineLostError, GenerationError, ServiceUnavailableError, UsageError

PROMPT = [10, 20, 30]
ASK = Sampling(4, logprob_token_ids=(3, 4))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    with ModelServer(write_checkpoint(tmp_path / "judge"), script=lambda prompt, sampling: "7") as server:
        yield server


@pytest.fixture
def engine(server: ModelServer) -> Iterator[Engine]:
    engine = load_engine(EngineConfig(server.model))
    yield engine
    engine.close()


@pytest.fixture
def impatient(server: ModelServer) -> Iterator[Engine]:
    engine = load_engine(EngineConfig(server.model, stall_s=3.0))
    yield engine
    engine.close()


async def answer_nonsense(request: Request) -> Response:
    return PlainTextResponse("<html>Bad gateway</html>")


async def ask(engine: Engine) -> Generation:
    return await engine.generate(PROMPT, ASK)


async def test_a_busy_server_is_asked_again_no_sooner_than_it_says(server: ModelServer, impatient: Engine) -> None:
    server.script.append(refuse(429, retry_after="0"))
    assert (await ask(impatient)).text == "7"
    server.script.append(refuse(429, "full", retry_after="3600"))
    with pytest.raises(EngineLostError, match="last problem: 429: full"):
        await ask(impatient)


@pytest.mark.parametrize("fault", [refuse(503), refuse(502), refuse(504), refuse(500), disconnect, answer_nonsense])
async def test_a_passing_fault_costs_nothing(server: ModelServer, engine: Engine, fault: Any) -> None:
    server.script.append(fault)
    assert (await ask(engine)).text == "7"


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        (refuse(500, "out of blocks"), "500: out of blocks"),
        (disconnect, "no answer .RemoteProtocolError"),
        (answer_nonsense, "expected JSON, got '<html>"),
    ],
)
async def test_a_lasting_fault_fails_the_request(server: ModelServer, engine: Engine, fault: Any, problem: str) -> None:
    server.script.extend([fault] * 3)
    with pytest.raises(GenerationError, match=f"{problem}.*3 tries failed"):
        await ask(engine)
    assert (await ask(engine)).text == "7"


@pytest.mark.parametrize(
    "changes",
    [
        {"token_ids": None},
        {"token_ids": ["7"]},
        {"token_ids": [-1]},
        {"token_ids": [True]},
        {"token_ids": 7},
        {"prompt_token_ids": [10, 20]},
        {"finish_reason": "abort"},
        {"finish_reason": None},
        {"logprobs": None},
        {"logprobs": {"top_logprobs": []}},
        {"logprobs": {"top_logprobs": [{"token_id:3": -1.0}] * 2}},
        {"logprobs": {"top_logprobs": [{"token_id:3": -1.0, "token_id:4": "NaN"}] * 2}},
        {"logprobs": {"top_logprobs": [{"token_id:3": -1.0, "token_id:4": 0.5}] * 2}},
        {"token_ids": [1] * 5, "logprobs": {"top_logprobs": [{"token_id:3": -1.0, "token_id:4": -2.0}] * 5}},
    ],
    ids=range(14),
)
async def test_a_response_that_is_no_completion_fails_the_request(
    server: ModelServer, engine: Engine, changes: dict[str, Any]
) -> None:
    server.changes = changes
    with pytest.raises(GenerationError, match=r"the server's response is not a completion|more than the 4 asked for"):
        await ask(engine)


async def test_a_reply_outside_of_the_grammar_fails_the_request(server: ModelServer, engine: Engine) -> None:
    server.ignored = {"structured_outputs"}
    with pytest.raises(GenerationError, match="the server ignored the grammar: its reply '7'"):
        await engine.generate(PROMPT, Sampling(4, regex="yes|no"))


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, UsageError, "the server rejected the request: 400: too long"),
        (401, AccessError, "401: too long; give the server's key with --model-key"),
        (404, AccessError, "404: too long; check the address and the name"),
        (307, AccessError, "307: too long; check the address"),
    ],
)
async def test_a_rejection_is_not_repeated(
    server: ModelServer, engine: Engine, status: int, error: type[Exception], message: str
) -> None:
    server.script.append(refuse(status, "too long"))
    requests = len(server.bodies)
    with pytest.raises(error, match=message):
        await ask(engine)
    assert len(server.bodies) == requests + 1


async def test_a_stalled_server_is_lost(server: ModelServer, impatient: Engine) -> None:
    server.always = hang
    with pytest.raises(EngineLostError, match=r"no response within 3 s \(ReadTimeout\)"):
        await ask(impatient)


async def test_a_stalled_request_fails_alone(server: ModelServer, impatient: Engine) -> None:
    server.script.append(hang)
    stalled = asyncio.create_task(ask(impatient))
    while not server.running:
        await asyncio.sleep(0.01)
    assert (await ask(impatient)).text == "7"
    with pytest.raises(GenerationError, match="while other requests were answered"):
        await stalled


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_stays_busy_is_lost(server: ModelServer, impatient: Engine, status: int) -> None:
    server.always = refuse(status, "overloaded")
    with pytest.raises(EngineLostError, match=rf"no answer for 3 s; last problem: {status}: overloaded"):
        await ask(impatient)


async def test_a_dead_server_is_lost(server: ModelServer, impatient: Engine) -> None:
    server.stop()
    with pytest.raises(EngineLostError, match=r"no answer for 3 s; last problem: no answer \(ConnectError"):
        await ask(impatient)
    assert "no answer for 3 s" in await wait_until_lost(impatient)


async def test_an_idle_engine_with_a_living_server_is_healthy(impatient: Engine) -> None:
    for _ in range(20):
        await impatient.check_health()
        await asyncio.sleep(0.2)


async def test_at_most_max_batch_requests_run_at_once(server: ModelServer) -> None:
    async def answer_slowly(request: Request) -> Response:
        await asyncio.sleep(0.02)
        return await server.answer(await request.json())

    engine = load_engine(EngineConfig(server.model, max_batch=3))
    server.always = answer_slowly
    generations = await asyncio.gather(*(ask(engine) for _ in range(12)))
    engine.close()
    assert [g.text for g in generations] == ["7"] * 12
    assert server.max_concurrent == 3


async def test_the_limit_halves_once_for_each_overload_and_recovers() -> None:
    limit = AdaptiveLimit(16)
    limit.shrink(started=time.monotonic())
    limit.shrink(started=0.0)  # sent before the first rejection came
    assert limit.size == 8
    for _ in range(10):
        limit.shrink(started=time.monotonic())
    assert limit.size == 1
    for _ in range(200):
        limit.grow()
    assert limit.size == 16


async def test_a_cancelled_caller_leaves_its_place_in_the_queue() -> None:
    limit = AdaptiveLimit(1)
    order: list[str] = []

    async def work(name: str) -> None:
        async with limit:
            order.append(name)
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work(name)) for name in "abcd"]
    await asyncio.sleep(0)
    tasks[1].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == ["a", "c", "d"]


def test_a_comparison_that_the_server_fails_at_has_no_score(server: ModelServer, engine: Engine) -> None:
    server.changes = {"token_ids": None}
    judgment = FlexJudge(engine, SETTINGS).judge([Comparison.of("What is 2 + 3?", "It is 5.")])[0]
    assert (judgment.status, judgment.scores) == (Status.FAILED, None)
    assert "not a completion with token ids" in judgment.detail


def test_a_server_that_fails_at_the_start(server: ModelServer) -> None:
    server.always = refuse(500, "no memory")
    with pytest.raises(ServiceUnavailableError, match="500: no memory; see the server's log"):
        load_engine(EngineConfig(server.model))
    server.always = answer_nonsense
    with pytest.raises(AccessError, match="expected JSON, got '<html>"):
        load_engine(EngineConfig(server.model))
    server.always = None
    server.script.append(refuse(503, "loading", retry_after="1"))
    load_engine(EngineConfig(server.model)).close()
    with pytest.raises(AccessError, match=r"404: .*; check the address"):
        load_engine(EngineConfig(f"{server.url}/elsewhere#judge"))
