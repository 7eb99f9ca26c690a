"""Stops of commands: each signal with each kind of output, as real processes; the same command then resumes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import benchmark_data
import pytest
from processes import PROGRAM
from stopping import PIPES, start_command

from flex_judge.experiments.cli import main
from flex_judge.judges.io.jsonl import write_rows

INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
JUDGE = ("--engine", "scripted", "--concurrency", "1")
WHOLE_JUDGE = ("--model", "scripts:steady_whole_judge")
ROWS = 12


@dataclass(frozen=True)
class ResumableCommand:
    """Command over a few rows, with the file that grows as it works and the files that it leaves."""

    arguments: tuple[str, ...]
    journal: str
    results: tuple[str, ...]
    status: int = 0
    """Exit status of a run that nothing stops."""


COMMANDS = {
    "judge": ResumableCommand(
        ("judge", "rows.jsonl", *JUDGE, "--model", "scripts:steady_judge", "--out", "out.jsonl"),
        "out.jsonl",
        ("out.jsonl",),
    ),
    "curate": ResumableCommand(
        ("curate", "curate.jsonl", *JUDGE, "--model", "scripts:steady_judge", "--out", "run"),
        "run/judgments.jsonl",
        ("run/judgments.jsonl", "run/dropped.jsonl"),
        status=1,  # the script agrees with no reference, so there is no training example
    ),
    "eval": ResumableCommand(
        ("eval", "pandalm", "--data", "testset-v1.json", "--no-force", *JUDGE, *WHOLE_JUDGE, "--out", "run"),
        "run/judgments.jsonl",
        ("run/judgments.jsonl", "run/items.jsonl"),
    ),
}


def write_inputs(folder: Path) -> None:
    """Write the inputs of all commands."""
    rows = [{"id": f"r{i}", "prompt": f"What is {i}?", "responses": [f"It is {i}.", "No."]} for i in range(ROWS)]
    write_rows(folder / "rows.jsonl", rows)
    curated = [
        {
            "question_body": f"What is {i}?",
            "answer1_body": f"It is {i}.",
            "answer2_body": f"It was {i}.",
            "score": [8, 3],
        }
        for i in range(ROWS)
    ]
    write_rows(folder / "curate.jsonl", curated)
    benchmark_data.write_pandalm(folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, bytes]]:
    """Return the function that gives the files of a run that nothing stopped."""
    files: dict[str, dict[str, bytes]] = {}

    def read_files(name: str) -> dict[str, bytes]:
        if name not in files:
            folder = tmp_path_factory.mktemp(name)
            write_inputs(folder)
            files[name] = run_to_end(name, folder)
        return files[name]

    return read_files


def run_to_end(name: str, folder: Path) -> dict[str, bytes]:
    """Run a command in this process, and return its files."""
    command = COMMANDS[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FLEX_JUDGE_TEST_THINK", "0")
        assert main(list(command.arguments)) == command.status
    return {file: (folder / file).read_bytes() for file in command.results}


@pytest.mark.parametrize(
    ("name", "number", "pipe"),
    [
        *((name, number, "read") for name in COMMANDS for number in (INT, TERM, HUP)),
        *(("judge", INT, pipe) for pipe in PIPES[1:]),
        ("curate", TERM, "dead"),
        ("eval", HUP, "closed"),
    ],
)
def test_stopped_command_acknowledges_and_resumes(
    name: str,
    number: signal.Signals,
    pipe: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], dict[str, bytes]],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    command = COMMANDS[name]
    journal = Path(command.journal)
    with start_command(command.arguments, tmp_path / "output", pipe) as running:
        running.wait_until(lambda: journal.exists() and bool(journal.read_bytes()))
        running.send(number)
        assert running.wait() == 130
    if pipe == "read":
        (line,) = [line for line in running.err.splitlines() if line.startswith("flex-judge: stopping")]
        assert line.startswith(f"flex-judge: stopping ({number.name}): ")
        assert line.endswith("a second signal ends at once")
        assert "run the same command again to resume" in line
    judged = journal.read_text()
    assert judged.endswith("\n")
    assert not any(Path(file).exists() for file in command.results if file != command.journal)
    assert run_to_end(name, tmp_path) == uninterrupted(name)
    assert set(judged.splitlines()) <= set(journal.read_text().splitlines())


@pytest.mark.parametrize("command", [("doctor",), ("judge", "rows.jsonl", *JUDGE), ("report", "nowhere"), ("serve",)])
@pytest.mark.parametrize("delay_s", [0.4, 1.2])
def test_stop_at_any_time_of_the_start_is_quiet(command: Sequence[str], delay_s: float, tmp_path: Path) -> None:
    with start_command(command, tmp_path) as running:
        time.sleep(delay_s)
        running.process.send_signal(TERM)
        status = running.wait()
    # A short command may have ended before, and a process that does not run Python yet ends by the signal itself.
    assert status in (0, 1, 2, 130, -TERM), running.err
    assert status != 130 or running.err.count("stopping (SIGTERM)") == 1
    assert all(line.startswith("flex-judge: ") for line in running.err.splitlines() if line)


@pytest.mark.parametrize("pipe", ["read", "dead"])
def test_second_signal_ends_at_once(pipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    command = ("judge", "rows.jsonl", *JUDGE, "--model", "scripts:deaf_judge", "--out", "out.jsonl")
    with start_command(command, tmp_path / "output", pipe, FLEX_JUDGE_TEST_CALLS=str(tmp_path / "calls")) as running:
        running.wait_until((tmp_path / "calls").exists)
        running.send(INT)
        time.sleep(1)  # signals of the first half second belong to the first
        assert running.process.poll() is None
        running.send(TERM)
        assert running.wait() == 130
    assert pipe != "read" or running.err.splitlines()[-1] == "flex-judge: ended at once"


def test_signals_that_come_together_are_one_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    with start_command(COMMANDS["judge"].arguments, tmp_path / "output") as running:
        running.wait_until(lambda: Path("out.jsonl").exists() and bool(Path("out.jsonl").read_bytes()))
        for number in (HUP, HUP, TERM):  # a shell whose terminal is closed, then a supervisor
            running.send(number)
        assert running.wait() == 130
    assert "ended at once" not in running.err


def test_ignored_signal_stays_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    with start_command(COMMANDS["judge"].arguments, tmp_path / "output", ignored=[HUP]) as running:
        running.wait_until(lambda: Path("out.jsonl").exists() and bool(Path("out.jsonl").read_bytes()))
        running.send(HUP)
        assert running.wait() == 0


@pytest.mark.parametrize(("pipe", "status"), [("dead", 0), ("closed", 0), ("full", 1)])
def test_output_that_nobody_reads_never_decides_over_work(
    pipe: str,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: Callable[[str], dict[str, bytes]],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_inputs(tmp_path)
    command = (*COMMANDS["judge"].arguments, "--json")
    with start_command(command, tmp_path / "output", pipe, FLEX_JUDGE_TEST_THINK="0") as running:
        assert running.wait() == status  # a full disk has lost results that somebody wanted
    assert (tmp_path / "out.jsonl").read_bytes() == uninterrupted("judge")["out.jsonl"]


def test_full_disk_behind_standard_output_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        process = subprocess.run([*PROGRAM, "doctor", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    assert process.stderr == "flex-judge: the output was not written: No space left on device\n"


def test_status_line_that_cannot_be_written_does_not_fail_the_work() -> None:
    code = "from flex_judge.experiments.common.console import print_status; print_status('a'); print('done')"
    with Path("/dev/full").open("w") as full:
        process = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True)
    assert (process.returncode, process.stdout) == (0, "done\n")
