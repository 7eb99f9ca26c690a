"""`flex-judge serve` as a process, with access to its processes, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from served import free_port

from flex_judge.reward.serving import CLUSTER_VARIABLE
from flex_judge.reward.serving.cleanup import ProcessFamily

START_S = 180.0


@dataclass
class Serving:
    """Running service."""

    process: subprocess.Popen[str]
    url: str
    family: ProcessFamily | None
    """Processes of its Ray; None if it joined one."""
    log: Path
    """Its log file."""
    environment: dict[str, str]
    """Environment that it was started with."""

    def processes(self, name: str = "") -> list[psutil.Process]:
        """List the processes of its Ray whose command line contains a name."""
        assert self.family is not None, "the service has no Ray of its own"
        self.family.find_members()
        return [p for p in self.family.list_alive() if name in _command(p)]

    def replicas(self) -> list[psutil.Process]:
        """List the processes of its replicas, oldest first."""
        return sorted(self.processes(":JudgeReplica"), key=lambda p: p.create_time())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@contextmanager
def serving(*flags: str, **environment: str) -> Iterator[Serving]:
    """Run `flex-judge serve` with these flags on a free port until the block ends."""
    log = Path(tempfile.mkdtemp(prefix="flex-judge-log-")) / "judge.log"
    command = [
        sys.executable,
        "-m",
        "flex_judge.experiments.cli",
        "serve",
        "--port",
        "0",
        "--log-file",
        str(log),
        *flags,
    ]
    whole_environment = os.environ | environment
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=whole_environment)
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), f"the service did not start: {url!r}, exit status {process.wait(30)}"
        children = psutil.Process(process.pid).children(recursive=True)
        marks = {p.environ()[CLUSTER_VARIABLE] for p in children if CLUSTER_VARIABLE in p.environ()}
        family = ProcessFamily(*marks) if marks else None
        if family is not None:
            family.find_members()
        yield Serving(process, url, family, log, whole_environment)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        process.stdout.close()


@contextmanager
def running_cluster(**variables: str) -> Iterator[str]:
    """Run a separate Ray cluster with `ray start` and these variables until the block ends; yields its address."""
    port = free_port()
    temporary = tempfile.mkdtemp(prefix="fj")  # not tmp_path, because the paths of Ray's sockets must be short
    ray = str(Path(sys.executable).with_name("ray"))
    head = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false"]
    head += ["--object-store-memory=200000000", "--temp-dir", temporary, "--block"]
    environment = {**os.environ, "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", **variables}
    cluster = subprocess.Popen(head, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in within(120, what="a Ray cluster"):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
        yield f"127.0.0.1:{port}"
        assert cluster.poll() is None
    finally:
        for process in psutil.Process(cluster.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        cluster.kill()
        cluster.wait()


def within(seconds: float, *, what: str) -> Iterator[float]:
    """Yield the elapsed seconds every 0.1 s; fails unless the caller breaks out of the loop in time."""
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds:
        yield elapsed
        time.sleep(0.1)
    raise AssertionError(f"not within {seconds:g} s: {what}")
