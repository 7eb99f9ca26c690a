"""Progress: counts, rate and remaining time as JSON, as lines of a log and on terminals of 80 and 200 columns."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import PROGRAM
from rich.console import Console
from terminal import run_in_terminal

from flex_judge.experiments.common import progress as progress_module
from flex_judge.experiments.common.progress import Phase, Progress, set_json_progress
from flex_judge.judges.io.jsonl import write_rows

FIELDS = {"phase", "state", "done", "failed", "running", "total", "rate", "eta", "elapsed", "note"}


@pytest.fixture
def json_style() -> Iterator[None]:
    set_json_progress(True)
    yield
    set_json_progress(False)


def run_phases(stream: io.StringIO) -> None:
    with Progress(Console(file=stream, width=80)) as progress:
        with progress.show_phase("loading", waiting_for="weights"):
            pass
        phase = progress.start_phase("judging", total=4, done=1)  # interrupted by the end of the block
        phase.begin_item()
        phase.begin_item()
        phase.end_item(failed=True)


@pytest.mark.usefixtures("json_style")
def test_programs_get_one_json_object_per_line() -> None:
    stream = io.StringIO()
    run_phases(stream)
    rows = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(row.keys() == FIELDS for row in rows)
    assert [(row["phase"], row["state"]) for row in rows] == [
        ("loading", "running"),
        ("loading", "done"),
        ("judging", "running"),
        ("judging", "stopped"),
    ]
    assert {name: rows[-1][name] for name in ("done", "failed", "running", "total")} == {
        "done": 2,
        "failed": 1,
        "running": 1,
        "total": 4,
    }
    assert rows[0]["note"] == "weights"


def test_a_log_gets_a_line_per_phase() -> None:
    stream = io.StringIO()
    run_phases(stream)
    lines = stream.getvalue().splitlines()
    assert [re.sub(r"\d+ s$", "N s", line) for line in lines] == [
        "flex-judge: loading: weights",
        "flex-judge: loading: took N s",
        "flex-judge: judging: 1 of 4 done",
    ]


def test_a_log_gets_lines_while_a_phase_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module, "LINE_INTERVAL_S", 0.01)
    stream = io.StringIO()
    with Progress(Console(file=stream, width=80)) as progress, progress.show_phase("starting") as phase:
        phase.report_replicas(1, 3, "the cluster has too few free resources")
        while "1 of 3 replicas ready; the cluster has too few free resources" not in stream.getvalue():
            time.sleep(0.01)


def test_rate_and_remaining_time_count_only_this_start(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    phase = Phase("judging", total=100, done=40)
    assert (phase.rate, phase.eta_s) == (None, None)
    now = 110.0
    phase.advance(20)
    assert (phase.rate, phase.eta_s) == (2.0, 20.0)
    phase.restart(60, 100)
    assert phase.rate is None


def test_no_remaining_time_is_shown_from_the_first_few_of_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    phase = Phase("judging", total=200)
    now = 120.0
    phase.advance(8)
    assert phase.eta_s is None
    now = 140.0
    phase.advance(12)
    assert phase.eta_s == 360.0
    slow = Phase("judging", total=10**6)
    now = 201.0
    slow.advance(61)
    assert slow.eta_s == 10**6 - 61
    training = Phase("training", waiting_for="loading the model")
    now = 300.0
    training.restart(0, 1000)
    now = 301.0
    training.advance()
    assert training.eta_s is None


def test_the_history_of_many_judgments_stays_small() -> None:
    phase = Phase("judging", total=10**6)
    for _ in range(5000):
        phase.advance()
    assert len(phase._history) < 100


SCRIPT = """
import sys
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.progress import Progress
from pathlib import Path
import time
with redirect_libraries(Path("log")) as console, Progress(console) as progress:
    print("noise of a library"); print("warning of a library", file=sys.stderr)
    with progress.show_phase("sampling and judging", total=123456, done=120000) as phase:
        phase.running = 256
        time.sleep(0.3)
        phase.advance(1234); phase.advance(12, failed=True)
        time.sleep(0.6)
    with progress.show_phase("starting", waiting_for="a long reason " * 20):
        time.sleep(0.4)
"""


@pytest.mark.parametrize("columns", [80, 200])
def test_lines_fit_a_terminal(columns: int, tmp_path: Path) -> None:
    status, lines = run_in_terminal([sys.executable, "-c", SCRIPT], columns, tmp_path)
    assert status == 0
    assert max(map(len, lines)) <= columns
    assert not any("library" in line for line in lines)
    assert "noise of a library" in (tmp_path / "log").read_text()
    (counts, *_) = [line for line in reversed(lines) if "121246/123456 · 0 s" in line or "121246/123456 · 1 s" in line]
    for part in ("12 failed", "left", "/min"):
        assert any("121246/123456" in line and part in line for line in lines), lines
    assert ("━" in counts) == (columns == 200)
    assert any("a long reason" in line and line.endswith("…") for line in lines)


STOPPED_SCRIPT = """
import os, signal, sys, time
from flex_judge.experiments.common.console import build_console
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.stopping import call_on_stop, run_stoppable

def work():
    with call_on_stop(lambda: None), Progress(build_console(sys.stderr)) as progress, progress.show_phase("loading"):
        time.sleep(1)  # until the display is drawn
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)

sys.exit(run_stoppable("flex-judge", work))
"""


def test_acknowledgement_of_a_stop_has_its_own_line_above_any_display(tmp_path: Path) -> None:
    status, lines = run_in_terminal([sys.executable, "-c", STOPPED_SCRIPT], 200, tmp_path)
    assert status == 130
    assert any(line.startswith("flex-judge: stopping (SIGINT): ") for line in lines), lines


def write_comparisons(path: Path, count: int) -> None:
    rows = [{"id": str(i), "prompt": f"What is {i} + 3?", "responses": [f"It is {i + 3}."]} for i in range(count)]
    rows.append({"id": "faulty", "prompt": "What?", "responses": ["x"], "images": ["missing.png"]})
    write_rows(path, rows)


def build_judge_command(*flags: str) -> list[str]:
    judge = ["--engine", "scripted", "--model", "scripts:fair_judge", "--max-failures", "1"]
    return [*PROGRAM, "judge", "c.jsonl", "--out", "j.jsonl", *judge, *flags]


@pytest.mark.parametrize("columns", [80, 200])
def test_a_command_in_a_terminal(columns: int, tmp_path: Path) -> None:
    write_comparisons(tmp_path / "c.jsonl", 30)
    status, lines = run_in_terminal(build_judge_command(), columns, tmp_path)
    assert status == 0
    assert any(line.startswith("✓ loading the judge") for line in lines), lines
    assert any("31/31" in line and "1 failed" in line and line.startswith("✓ judging") for line in lines), lines
    assert max(len(line) for line in lines if line.startswith(("✓", "✗"))) <= columns


def test_a_command_with_json_progress_and_in_a_log(tmp_path: Path) -> None:
    write_comparisons(tmp_path / "c.jsonl", 5)
    run: Any = subprocess.run(
        build_judge_command("--json-progress"), cwd=tmp_path, capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in run.stderr.splitlines() if line.startswith("{")]
    last = rows[-1]
    assert (last["phase"], last["state"], last["done"], last["failed"]) == ("judging", "done", 6, 1)
    (tmp_path / "j.jsonl").unlink()
    run = subprocess.run(build_judge_command(), cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "flex-judge: judging: 6 of 6 done, 1 failed, took " in run.stderr
    assert "━" not in run.stderr
