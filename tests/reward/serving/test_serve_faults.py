"""Service under faults and load: the real Serve application with scripted engines."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_lint import find_problems, list_values
from scripts import SETTINGS, fair_judge
from serving import Serving, serving, within

import flex_judge
from flex_judge.judges import Comparison, FlexJudge, Status
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.reward.client import JudgeClient

pytestmark = pytest.mark.slow
STEADY = ("--engine", "scripted", "--model", "scripts:steady_judge", "--temperature", "0")


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the log of the judge's calls."""
    return tmp_path_factory.mktemp("notes") / "calls"


@pytest.fixture(scope="module")
def two_replicas(calls: Path) -> Iterator[Serving]:
    """Run a service with two replicas of a slow judge that logs its calls."""
    flags = ("--engine", "scripted", "--model", "scripts:counted_judge", "--temperature", "0", "--replicas", "2")
    small = ("--max-batch", "8", "--max-pending", "700", "--disconnect-grace-s", "5")
    environment = {"FLEX_JUDGE_TEST_THINK": "0.4", "FLEX_JUDGE_TEST_CALLS": str(calls)}
    with serving(*flags, *small, **environment) as service:
        yield service


def count_events(calls: Path, event: str, word: str) -> Counter[str]:
    """Count the logged calls of an event whose candidate contains a word, by candidate."""
    lines = [line.partition(" ") for line in calls.read_text().splitlines()]
    return Counter(candidate for name, _, candidate in lines if name == event and word in candidate)


def make_comparisons(prompts: int, candidates: int) -> list[Comparison]:
    return [
        Comparison.of(f"Question {p}?", f"answer {p} {c}", rubric="correctness", id=f"{p}/{c}")
        for p in range(prompts)
        for c in range(candidates)
    ]


def test_replicas_have_the_priority_of_the_command(two_replicas: Serving) -> None:
    niceness = psutil.Process(two_replicas.process.pid).nice()
    assert [process.nice() for process in two_replicas.replicas()] == [niceness, niceness]


def test_600_requests_while_a_replica_is_killed_three_times(two_replicas: Serving) -> None:
    comparisons = make_comparisons(75, 8)
    calm = FlexJudge(ScriptedEngine(fair_judge), SETTINGS).judge(comparisons)
    killed: list[int] = []

    def kill() -> None:
        for _ in range(3):
            for _ in within(60, what="two replicas to kill one of"):
                if len(alive := two_replicas.replicas()) == 2 and not {p.pid for p in alive} & set(killed):
                    break
                if len(alive) == 2 and any(p.pid not in killed for p in alive):
                    break
            time.sleep(1.0)
            newest = two_replicas.replicas()[-1]
            killed.append(newest.pid)
            newest.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    judgments = JudgeClient(two_replicas.url, chunk=20).judge_sync(comparisons)
    killer.join()
    assert len(set(killed)) == 3
    assert [j.id for j in judgments] == [c.id for c in comparisons]
    assert Counter(j.status for j in judgments) == {Status.OK: 600}
    assert [(j.scores, j.expected_scores) for j in judgments] == [(j.scores, j.expected_scores) for j in calm]


def test_refuses_tenfold_overload_at_once_and_recovers(two_replicas: Serving) -> None:
    row = {"prompt": "Question?", "responses": ["answer"] * 1, "rubric": "correctness"}

    async def ask(client: httpx.AsyncClient) -> tuple[int, float, str | None]:
        start = time.monotonic()
        response = await client.post(f"{two_replicas.url}/v1/judge", json={"comparisons": [row] * 100})
        return response.status_code, time.monotonic() - start, response.headers.get("retry-after")

    async def overload() -> list[tuple[int, float, str | None]]:
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(timeout=120, limits=limits) as client:
            return await asyncio.gather(*(ask(client) for _ in range(70)))

    for _ in within(60, what="both replicas"):
        if httpx.get(f"{two_replicas.url}/healthz").json().get("replicas") == 2:
            break
    answers = asyncio.run(overload())
    assert Counter(status for status, *_ in answers) == {200: 7, 503: 63}
    assert all(after is not None and 1 <= int(after) <= 60 for status, _, after in answers if status == 503)
    assert max(seconds for status, seconds, _ in answers if status == 503) < 20
    (judgment,) = JudgeClient(two_replicas.url, deadline_s=20).judge_sync(make_comparisons(1, 1))
    assert judgment.status == Status.OK


def test_exports_its_own_metrics_only_and_a_log(two_replicas: Serving) -> None:
    JudgeClient(two_replicas.url).judge_sync(make_comparisons(1, 1))
    answer = httpx.get(f"{two_replicas.url}/metrics", headers={"X-Request-ID": "one-scrape"})
    assert list(find_problems(answer.text)) == []
    values = {name: value for (name, _), value in list_values(answer.text).items()}
    assert all(name.startswith("flex_judge_") for name in values)
    assert len(answer.content) < 40_000
    assert values["flex_judge_judgment_seconds_count"] >= 1
    assert values["flex_judge_replicas"] == values["flex_judge_replicas_wanted"] == 2
    assert answer.headers.get_list("X-Request-ID") == ["one-scrape"]
    version = JudgeClient(two_replicas.url).version_sync()["version"]
    assert version == flex_judge.__version__
    assert JudgeClient(two_replicas.url).models_sync() == ["scripts:counted_judge"]
    assert " INFO gateway request request_id=" in two_replicas.log.read_text()
    assert re.search(r" INFO replica-\w+ ready ", two_replicas.log.read_text())


def test_killed_replicas_and_gateway_recover(two_replicas: Serving) -> None:
    for part in ("JudgeReplica", "JudgeGateway"):
        for process in two_replicas.processes(part):
            process.kill()
        client = JudgeClient(two_replicas.url, deadline_s=90, attempt_s=10)
        assert client.judge_sync(make_comparisons(1, 1))[0].status == Status.OK, part


def test_nothing_is_judged_twice_when_the_gateway_is_killed(two_replicas: Serving, calls: Path) -> None:
    def kill() -> None:
        for _ in within(60, what="the middle of the requests"):
            if calls.exists() and count_events(calls, "end", "kept").total() >= 40:
                break
        for process in two_replicas.processes("JudgeGateway"):
            process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    comparisons = [Comparison.of(f"Question {i}?", f"kept {i}", rubric="correctness", id=f"{i}") for i in range(150)]
    judgments = JudgeClient(two_replicas.url, chunk=1, concurrency=32).judge_sync(comparisons)
    killer.join()
    assert [(j.id, j.status) for j in judgments] == [(c.id, Status.OK) for c in comparisons]
    assert count_events(calls, "end", "kept") == {f"kept {i}": 1 for i in range(150)}


@pytest.mark.parametrize("key", ["", "Idempotency-Key: left{}\r\n"], ids=["no key", "key"])
def test_requests_of_closed_connections_are_not_judged(two_replicas: Serving, calls: Path, key: str) -> None:
    name = "keyed" if key else "keyless"
    host, _, port = two_replicas.url.removeprefix("http://").partition(":")
    connections = []
    for i in range(30):
        rows = [{"prompt": "Question?", "responses": [f"{name} {i} {k}"]} for k in range(16)]
        body = json.dumps({"comparisons": rows}).encode()
        head = f"POST /v1/judge HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{key.format(i)}"
        connections.append(socket.create_connection((host, int(port))))
        connections[-1].sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    for _ in within(60, what="the first of them to be judged"):
        if calls.exists() and count_events(calls, "start", name):
            break
    for connection in connections:
        connection.close()
    for _ in within(60, what="the end of their work"):
        if httpx.get(f"{two_replicas.url}/healthz", timeout=30).json().get("pending") == 0:
            break
    started = count_events(calls, "start", name).total()
    assert started < 480
    assert JudgeClient(two_replicas.url).judge_sync(make_comparisons(1, 1))[0].status == Status.OK
    assert count_events(calls, "start", name).total() == started


def test_answers_accepted_requests_while_stopping(two_replicas: Serving) -> None:
    # Must be the last test with `two_replicas`, as it ends the service.
    body = {"comparisons": [{"prompt": f"Question {i}?", "responses": ["answer"]} for i in range(200)]}
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{two_replicas.url}/v1/judge", json=body, timeout=60))
    )
    asking.start()
    time.sleep(1.5)
    two_replicas.process.send_signal(signal.SIGTERM)
    for _ in within(10, what="new requests to be refused"):
        late = httpx.post(f"{two_replicas.url}/v1/judge", json={"comparisons": body["comparisons"][:1]}, timeout=30)
        if late.status_code == 503:
            break
    assert late.headers["retry-after"]
    asking.join()
    assert answers[0].status_code == 200
    assert {row["status"] for row in answers[0].json()["judgments"]} == {"ok"}
    assert two_replicas.process.wait(60) == 0
    assert not two_replicas.processes()


@pytest.mark.parametrize("victim", ["serve", "raylet/raylet"])
def test_no_process_is_left_15_seconds_after_a_kill(victim: str) -> None:
    with serving(*STEADY) as service:
        if victim == "serve":
            service.processes()
            service.process.kill()
        else:
            for process in service.processes(victim):
                process.kill()
        assert is_family_dead(service)


def is_family_dead(service: Serving) -> bool:
    return any(not service.processes() for _ in within(15, what=f"the end of {service.processes()}"))
