"""Clients that go away: their work ends in the engine, at once or after the grace time of an idempotency key."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
from scripts import SETTINGS, fair_judge
from served import Served, served
from web import comparisons, get_statuses, samples

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.reward.server.gateway import GatewayConfig


class PacedJudge:
    """Scripted judge that thinks about each candidate for some seconds and counts what its engine did."""

    def __init__(self, think_s: float) -> None:
        self.think_s = think_s
        self.started: Counter[str] = Counter()
        self.finished: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.judge = FlexJudge(ScriptedEngine(self._script), SETTINGS)

    async def _script(self, prompt: str, sampling: Sampling) -> str:
        if sampling.stop == ("</think>",):
            candidate = prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]
            self.started[candidate] += 1
            try:
                await asyncio.sleep(self.think_s)
            except asyncio.CancelledError:
                self.cancelled[candidate] += 1
                raise
            self.finished[candidate] += 1
        return fair_judge(prompt, sampling)


def open_request(service: Served, path: str, body: dict[str, Any], key: str | None = None) -> socket.socket:
    """Send a request on a connection of its own, and return the socket without waiting for the response."""
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: judge\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    )
    if key is not None:
        head += f"Idempotency-Key: {key}\r\n"
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(f"{head}\r\n".encode() + content)
    return connection


def read_answer(connection: socket.socket) -> Any:
    response = HTTPResponse(connection)
    response.begin()
    assert response.status == 200
    answer = json.loads(response.read())
    connection.close()
    return answer


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, f"not within 10 s: {what}"
        time.sleep(0.01)


def count_pending(service: Served) -> int:
    return int(httpx.get(f"{service.url}/healthz").json()["pending"])


@contextmanager
def paced_service(think_s: float, **limits: Any) -> Iterator[tuple[PacedJudge, Served]]:
    judge = PacedJudge(think_s)
    with served(judge.judge, GatewayConfig(**limits)) as service:
        yield judge, service


@pytest.mark.parametrize("key", [None, "one"])
@pytest.mark.parametrize(("path", "body"), [("/v1/judge", comparisons("a", "b")), ("/v1/rewards", samples("a", "b"))])
def test_work_of_a_closed_connection_is_cancelled_in_the_engine(path: str, body: Any, key: str | None) -> None:
    with paced_service(60.0, disconnect_grace_s=0.05) as (judge, service):
        connection = open_request(service, path, body, key)
        wait_for(lambda: len(judge.started) == 2, "the start of both")
        connection.close()
        wait_for(lambda: judge.cancelled == {"a": 1, "b": 1}, "the end of both")
        assert count_pending(service) == 0
        assert not judge.finished


def test_requests_that_wait_for_the_engine_are_never_judged_after_their_clients_left() -> None:
    with paced_service(0.3, disconnect_grace_s=0.0) as (judge, service):
        judge.judge.engine.max_batch = 1
        connections = [open_request(service, "/v1/judge", comparisons(f"{i}"), f"key {i}") for i in range(20)]
        wait_for(lambda: count_pending(service) == 20 and bool(judge.started), "all requests")
        for connection in connections:
            connection.close()
        wait_for(lambda: count_pending(service) == 0, "the end of all requests")
        assert get_statuses(httpx.post(f"{service.url}/v1/judge", json=comparisons("after"))) == ["ok"]
        assert judge.started.total() < 10


def test_a_retry_within_the_grace_time_gets_the_answer_of_the_first_try() -> None:
    with paced_service(0.5, disconnect_grace_s=30.0) as (judge, service):
        open_request(service, "/v1/judge", comparisons("a"), "one").close()
        wait_for(lambda: judge.started["a"] == 1, "the start")
        answer = httpx.post(f"{service.url}/v1/judge", json=comparisons("a"), headers={"Idempotency-Key": "one"})
        assert get_statuses(answer) == ["ok"]
        assert judge.started == {"a": 1}


def test_a_retry_ends_the_grace_time_of_the_first_try() -> None:
    with paced_service(4.0, disconnect_grace_s=2.0) as (judge, service):
        open_request(service, "/v1/judge", comparisons("a"), "one").close()
        wait_for(lambda: judge.started["a"] == 1, "the start")
        answer = httpx.post(f"{service.url}/v1/judge", json=comparisons("a"), headers={"Idempotency-Key": "one"})
        assert get_statuses(answer) == ["ok"]
        assert judge.started == judge.finished == {"a": 1}


def test_a_request_that_was_given_up_can_be_sent_again() -> None:
    with paced_service(0.3, disconnect_grace_s=0.0) as (judge, service):
        connection = open_request(service, "/v1/judge", comparisons("a"), "one")
        wait_for(lambda: judge.started["a"] == 1, "the start")
        connection.close()
        wait_for(lambda: judge.cancelled["a"] == 1, "the end")
        answer = httpx.post(f"{service.url}/v1/judge", json=comparisons("a"), headers={"Idempotency-Key": "one"})
        assert get_statuses(answer) == ["ok"]
        assert judge.started == {"a": 2}


@pytest.mark.parametrize("method", ["pointwise", "round_robin", "swiss", "knockout"])
@pytest.mark.parametrize("moment", ["while the group waits", "while it is judged"])
def test_the_other_members_of_a_group_get_rewards_when_a_client_leaves(method: str, moment: str) -> None:
    reward = {"reward": "win_rate"} if method != "pointwise" else {"normalize": "center"}
    group = {"method": method, "group_size": 3, "group_timeout_s": 1.0, **reward}
    with paced_service(0.3, disconnect_grace_s=0.0) as (judge, service):

        def join(member: str) -> socket.socket:
            return open_request(service, "/v1/rewards", samples(member, **group), member)

        leaving, staying = join("leaving"), join("b")
        wait_for(lambda: count_pending(service) == 2, "two members")
        if moment == "while the group waits":
            leaving.close()
            wait_for(lambda: count_pending(service) == 1, "the end of the first member")
        last = join("c")
        if moment == "while it is judged":
            wait_for(lambda: count_pending(service) == 3 and judge.started.total() > 0, "the whole group")
            leaving.close()
        rewards = [read_answer(connection)["rewards"][0] for connection in (staying, last)]
    assert [reward["status"] for reward in rewards] == ["ok", "ok"]
    assert all(reward["value"] is not None for reward in rewards)
