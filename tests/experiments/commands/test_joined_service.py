"""The Ray of a local `flex-judge serve`: other commands join it at the address that the service prints."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import PROGRAM, run_command

import flex_judge
from flex_judge.judges.io.jsonl import write_rows

pytestmark = pytest.mark.slow
START_S = 400.0
SCRIPTED = ["--engine", "scripted"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Run a service; yield its URL and what it printed on standard error."""
    log = tmp_path_factory.mktemp("serve") / "stderr"
    command = [*PROGRAM, "serve", "--port", "0", *SCRIPTED]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, "--model", "scripts:fair_judge", "--start-timeout-s", "300"],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    watchdog = threading.Timer(START_S, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, log.read_text()
        yield url, log.read_text()
    finally:
        watchdog.cancel()
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def test_start_is_shown_without_messages_of_ray(service: tuple[str, str]) -> None:
    lines = service[1].splitlines()
    log_line = re.compile(r"\d{4}-\d{2}-\d{2}T[\d:.]+Z [A-Z]+ (gateway|replica-\w+) ")
    assert all(line.startswith("flex-judge: ") or log_line.match(line) for line in lines), lines
    assert any(re.match(r"flex-judge: starting Ray: took \d+", line) for line in lines), lines
    assert any(re.match(r"flex-judge: loading scripts:fair_judge: took \d+", line) for line in lines), lines


def test_health_names_model_version_and_replicas(service: tuple[str, str]) -> None:
    health = httpx.get(f"{service[0]}/healthz").json()
    expected = {"status": "ok", "phase": "ready", "model": "scripts:fair_judge", "version": flex_judge.__version__}
    assert {name: health[name] for name in expected} == expected
    assert (health["replicas"], health["replicas_wanted"], health["pending"]) == (1, 1, 0)


def test_other_commands_join(service: tuple[str, str], tmp_path: Path) -> None:
    match = re.search(r"join this Ray with --address (\S+)", service[1])
    assert match is not None, service[1]
    prompts = tmp_path / "prompts.jsonl"
    write_rows(prompts, [{"prompt": f"What is {i} + 3?"} for i in range(3)])
    judge = ["--judge-url", service[0], "--rubric", "correctness", "--samples", "2"]
    policy = ["--policy-engine", "scripted", "--policy", "scripts:drawn_policy"]
    # A child process: Ray reads its token mode from the environment when it is imported.
    command = ["best-of-n", str(prompts), *policy, *judge, "--out", str(tmp_path / "run"), "--address", match[1]]
    run = run_command(*command, "--json-progress", PYTHONUNBUFFERED="1")
    assert run.returncode == 0, run.stderr
    phases = [json.loads(line)["phase"] for line in run.stderr.splitlines() if line.startswith("{")]
    assert list(dict.fromkeys(phases))[:2] == ["joining Ray", "starting policy"]
    assert len((tmp_path / "run" / "best_of_n.jsonl").read_text().splitlines()) == 3
    assert httpx.get(f"{service[0]}/healthz").json()["replicas"] == 1
