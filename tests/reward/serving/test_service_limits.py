"""A real service under attack: heads without end, secrets in the cluster, and what it shows to strangers."""

from __future__ import annotations

import os
import re
import socket
import stat
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from serving import Serving, serving

pytestmark = pytest.mark.slow
KEY = "a-long-and-secret-key-of-this-test"
PAGE = (Path(__file__).parents[3] / "docs/operations/security.md").read_text()
PORTS_SECTION = PAGE.partition("## What listens where")[2]
TOKEN = "0123456789abcdef" * 4
BEARER = {"Authorization": f"Bearer {KEY}"}
ROW = {"comparisons": [{"prompt": "Question?", "responses": ["answer"], "rubric": "correctness"}]}


@pytest.fixture(scope="module")
def service() -> Iterator[Serving]:
    flags = ("--engine", "scripted", "--model", "scripts:steady_judge", "--replicas", "1", "--api-key", "env:TEST_KEY")
    with serving(*flags, TEST_KEY=KEY, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as service:
        yield service


def connect(service: Serving) -> socket.socket:
    url = httpx.URL(service.url)
    return socket.create_connection((url.host, url.port or 80), timeout=30)


def send_until_closed(connection: socket.socket, start: bytes, block: bytes) -> tuple[int, bytes]:
    """Send a start and then a block until the service closes the connection; return the bytes sent, and its answer."""
    sent = 0
    with connection:
        connection.sendall(start)
        try:
            while sent < 1 << 30:
                sent += connection.send(block)
                if sent > 1 << 20:
                    time.sleep(0.01)
        except OSError:
            pass
        try:
            return sent, connection.recv(1000)
        except OSError:
            return sent, b""


def test_endless_heads_harm_nobody(service: Serving) -> None:
    (proxy,) = service.processes("ProxyActor")
    before, latencies = proxy.memory_info().rss, []
    is_over = threading.Event()

    def watch() -> None:
        with httpx.Client() as http:
            while not is_over.is_set():
                start = time.monotonic()
                assert http.get(f"{service.url}/healthz").status_code == 200
                latencies.append(time.monotonic() - start)
                time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = b"GET /healthz HTTP/1.1\r\nHost: a\r\n"
    for block in (b"a" * 65_536, b"a: b\r\n" * 10_000):
        sent, answer = send_until_closed(connect(service), start + b"X: ", block)
        assert sent < 1 << 30, "the service read a head of a GiB"
        assert not answer or answer.startswith(b"HTTP/1.1 4")
    is_over.set()
    watcher.join()
    assert proxy.is_running()
    assert proxy.memory_info().rss - before < 100 << 20
    print(f"/healthz: median {statistics.median(latencies):.3f} s, maximum {max(latencies):.3f} s")
    assert httpx.post(f"{service.url}/v1/judge", json=ROW, headers=BEARER, timeout=60).status_code == 200


def test_a_head_of_65_kib_is_refused_and_one_of_60_kib_is_not(service: Serving) -> None:
    for size, status in ((60 << 10, 200), (65 << 10, 431)):
        assert httpx.get(f"{service.url}/healthz", headers={"X": "a" * size}).status_code == status


def test_the_applications_of_the_cluster_are_not_listed(service: Serving) -> None:
    assert httpx.get(f"{service.url}/-/routes").status_code == 404
    assert httpx.get(f"{service.url}/-/healthz").status_code == 200


def test_no_process_and_no_log_of_the_cluster_holds_the_key(service: Serving) -> None:
    processes = service.processes()
    assert len(processes) > 4
    sessions = set()
    for process in processes:
        try:
            texts = [*process.cmdline(), *process.environ().values()]
        except psutil.NoSuchProcess:
            continue
        assert not [text for text in texts if KEY in text]
        sessions |= {Path(match[0]) for text in texts if (match := re.search(r"/\S*/session_[\d_-]+", text))}
    (session,) = sessions
    files = [path for path in session.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
    assert httpx.post(f"{service.url}/v1/judge", json=ROW).status_code == 401


def test_logs_are_private(service: Serving) -> None:
    (proxy,) = service.processes("ProxyActor")
    logs = [Path(file.path) for file in proxy.open_files() if file.path.endswith((".log", ".err", ".out"))]
    assert logs
    assert not [path for path in logs if stat.S_IMODE(path.stat().st_mode) & 0o077]


def test_ray_refuses_callers_without_its_token(service: Serving) -> None:
    (raylet,) = [process for process in service.processes() if process.name() == "raylet"]
    (address,) = [text.partition("=")[2] for text in raylet.cmdline() if text.startswith("--gcs-address=")]
    code = "import ray, sys; ray.init(address=sys.argv[1]); print('joined', len(ray.nodes()))"
    for variables, is_admitted in (({"RAY_AUTH_TOKEN": TOKEN}, True), ({"RAY_AUTH_TOKEN": "f" * 64}, False)):
        environment = {**os.environ, "RAY_AUTH_MODE": "token", **variables}
        command = [sys.executable, "-c", code, address]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert ("joined 1" in result.stdout) == is_admitted, result.stderr


def test_only_the_documented_processes_listen(service: Serving) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", PORTS_SECTION.split("\n## ")[0], re.MULTILINE)
    documented = dict(rows)
    assert len(documented) > 4
    listening = {
        (describe_process(process), connection.laddr.ip)
        for process in service.processes()
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port != httpx.URL(service.url).port
    }
    assert {name for name, _ in listening} <= documented.keys(), listening
    assert not [name for name, _ in listening if "all interfaces" not in documented[name]]
    ports = {c.laddr.port: c.laddr.ip for p in service.processes("ProxyActor") for c in p.net_connections("inet")}
    assert ports[httpx.URL(service.url).port] == "127.0.0.1"


def describe_process(process: psutil.Process) -> str:
    """Return the class of an actor, the name of a script, or the name of a program."""
    command = process.cmdline()
    if command[0].startswith("ray::"):
        return command[0].removeprefix("ray::").split(":")[-1].partition(".")[0].strip()
    scripts = [argument for argument in command if argument.endswith(".py")]
    return Path([*scripts, command[0]][0]).name
