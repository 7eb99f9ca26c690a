"""Errors of the command line: bad input gives one line that names the fix, and exit status 2."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flex_judge.experiments.cli import main

DEMO = ["demo", "--engine", "scripted", "--policy", "scripts:policy", "--judge", "scripts:slow_judge"]


def run_for_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with exit status 2, and return its one-line error."""
    try:
        status = main(arguments)
    except SystemExit as e:  # raised by argparse
        status = e.code  # type: ignore[assignment]
    assert status == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--prompts", "many"], "argument --prompts: invalid int value: 'many'"),
        (["demo", "--prompts", "0"], "--prompts must be at least 1, not 0"),
        (["demo", "--samples", "-3"], "--samples must be at least 1, not -3"),
        (["demo", "--replicas", "0"], "--replicas must be at least 1, not 0"),
        (["demo", "--engine", "abacus"], "invalid choice: 'abacus'"),
        (["demo", "--address", "somewhere"], "Ray address 'somewhere' must be host:port or auto"),
        (
            ["demo", "--judge", "no/such-model"],
            "is no embedded model (smollm2-135m, flex-s",
        ),
        (
            ["demo", "--policy", "no such model"],
            "no embedded model (smollm2-135m, flex-smollm2-135m) and no folder, and no hub id",
        ),
        (["demo", "--prompts", "100000"], "different questions, not 100000"),
        (["demo", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["report", "nowhere"], "nowhere: does not exist"),
        (["sing"], "invalid choice: 'sing'"),
    ],
)
def test_bad_input_gives_one_line_and_writes_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in run_for_error(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "vllm" else real(name, *a))
    assert "uv sync --no-default-groups --group embedded --extra all --extra vllm (for a GPU)" in run_for_error(
        capsys, "demo", "--engine", "vllm"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("promts: 3", "c.yaml: unknown setting 'promts'; did you mean 'prompts'?"),
        ("prompts: many", "c.yaml: setting 'prompts' must be of type int, not 'many'"),
        ("prompts: true", "c.yaml: setting 'prompts' must be of type int, not True"),
        ("engine: abacus", "c.yaml: setting 'engine' must be one of auto, transformers, vllm, remote, scripted"),
        ("- 3", "c.yaml: expected settings as 'name: value', got list"),
        ("a: [", "c.yaml: not YAML"),
    ],
)
def test_wrong_config_file_is_named_with_its_setting(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert message in run_for_error(capsys, "demo", "--config", str(tmp_path / "c.yaml"))


def test_flags_win_over_the_config_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.yaml").write_text("prompts: 7\nsamples: 0\n")
    assert "--samples must be at least 1, not 0" in run_for_error(capsys, "demo", "--config", str(tmp_path / "c.yaml"))
    arguments = ["demo", "--config", str(tmp_path / "c.yaml"), "--samples", "2", "--prompts", "-7"]
    assert "--prompts must be at least 1, not -7" in run_for_error(capsys, *arguments)


def test_rejects_a_folder_with_another_run_and_names_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"policy": "scripts:policy", "judge": "scripts:slow_judge", "engine": "scripted", "prompts": 5}
    run = {"settings": {**settings, "samples": 8, "seed": 0}, "seconds": {}, "total_seconds": 0}
    (tmp_path / "run.json").write_text(json.dumps(run))
    (tmp_path / "completions.jsonl").write_text('{"id": "1/0"}\n')
    error = run_for_error(capsys, *DEMO, "--out", str(tmp_path))
    assert "holds a run with prompts = 5, not 24; use the same settings to resume it, or choose another --out" in error


def test_rejects_a_folder_with_other_files_and_leaves_it_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert "holds files but no run; choose another --out" in run_for_error(capsys, *DEMO, "--out", str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_rejects_a_file_as_output_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert "is a file; give a folder with --out" in run_for_error(capsys, *DEMO, "--out", str(tmp_path / "file"))


def test_rejects_a_folder_in_use_by_another_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in run_for_error(capsys, *DEMO, "--out", str(tmp_path))


def test_too_little_memory_is_reported_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.cluster.measure_available_memory", lambda: 1 << 30)
    assert main([*DEMO, "--out", str(tmp_path / "run")]) == 2
    assert "GiB are free; use fewer --replicas" in capfd.readouterr().err


@pytest.mark.slow
def test_ctrl_c_keeps_finished_work_and_the_same_command_resumes(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "flex_judge.experiments.cli",
        *DEMO,
        "--prompts",
        "30",
        "--samples",
        "4",
        "--out",
        str(run),
    ]
    first = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    judgments = run / "judgments.jsonl"
    deadline = time.monotonic() + 120
    while not (judgments.exists() and judgments.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 130, error
    assert "run the same command again to resume" in error
    saved = judgments.read_text().splitlines()
    assert 0 < len(saved) < 120
    assert not (run / "summary.json").exists()

    # Finished judgments stay; a judgment that failed with its engine is retried.
    failed = {**json.loads(saved[-1]), "status": "engine_lost", "scores": None}
    saved[-1] = json.dumps(failed)
    judgments.write_text("".join(row + "\n" for row in saved))
    second = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert second.returncode == 0, second.stderr
    rows = judgments.read_text().splitlines()
    assert rows[: len(saved)] == saved
    judged = [json.loads(row) for row in rows]
    assert len(judged) == 121
    assert len({row["id"] for row in judged if row["status"] == "ok"}) == 120
    assert "Best-of-4 is right on" in second.stdout

    written = {p.name: p.read_bytes() for p in run.iterdir()}
    third = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "nothing is sampled or judged again" in third.stderr
    for name in ("completions.jsonl", "judgments.jsonl", "best_of_n.jsonl", "preferences.jsonl"):
        assert (run / name).read_bytes() == written[name]


@pytest.mark.parametrize(
    ("command", "flag", "suggestion"),
    [
        ("preferences", "--model", "--judge"),
        ("judge", "--judge", "--model"),
        ("judge", "--max-thinking-tokens", "--max-think-tokens"),
        ("eval pandalm", "--judge", "--model"),
        ("judge", "--nonsense", None),
    ],
)
def test_unknown_flag_suggests_the_right_one(
    command: str, flag: str, suggestion: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), flag, "x"])
    error = capsys.readouterr().err
    assert f"unrecognized arguments: {flag}" in error
    assert ("did you mean" in error) == (suggestion is not None)
    assert suggestion is None or f"did you mean {suggestion}?" in error
