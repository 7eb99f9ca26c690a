"""Resuming `flex-judge judge`: the same command continues an interrupted run and repeats no judgment."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import scripts
from scripts import count_calls

from flex_judge.experiments.cli import main
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.io.comparison_rows import read_comparison_json
from flex_judge.judges.io.files import read_table, write_table

COMMAND = ["judge", "c.jsonl", "--engine", "scripted", "--model", "scripts:logged_judge", "--max-think-tokens", "400"]
CALLS_PER_ROW = 2  # one for the thinking, one for the answer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty working directory; the script logs its calls outside of it."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FLEX_JUDGE_TEST_CALLS", str(tmp_path / "notes" / "calls"))
    return tmp_path


def write_rows(count: int = 12, **second: str) -> None:
    """Write comparisons with ids r0, r1, ...; `second` replaces the second response of the named rows."""
    rows = [
        {"id": f"r{i}", "prompt": f"What is {i}?", "responses": [f"It is {i}.", second.get(f"r{i}", f"It was {i}.")]}
        for i in range(count)
    ]
    Path("c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def count_calls_for(id: str, calls: Counter[str]) -> int:
    """Count the calls for the row `id`."""
    return sum(n for call, n in calls.items() if f"What is {id[1:]}?" in call)


def read_ids(path: str) -> list[str]:
    return [row["id"] for row in read_rows(path)]


def read_rows(path: str) -> list[dict[str, Any]]:
    return [row for _, row in read_table(Path(path))]


def list_files() -> set[str]:
    # Without the page and the record of a run, which test_run_pages.py tests.
    return {p.name for p in Path().iterdir() if not p.name.endswith((".html", ".run.json"))}


def run_until_killed(*flags: str) -> None:
    """Run the command in a subprocess that sends itself SIGKILL."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "flex_judge.experiments.cli", *COMMAND, *flags]
    assert subprocess.run(command, capture_output=True, env=environment, timeout=60).returncode == -signal.SIGKILL


def test_ctrl_c_keeps_judgments_and_the_same_command_resumes(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(r6="SIGINT")
    command = [*COMMAND, "--concurrency", "1", "--out", "o.jsonl"]
    assert main(command) == 130
    error = capfd.readouterr().err
    assert "run the same command again to resume" in error
    assert "flex-judge: page of the unfinished run: o.jsonl.html" in error
    assert read_ids("o.jsonl") == [f"r{i}" for i in range(6)]
    first = Path("o.jsonl").read_text()

    assert main(command) == 0
    assert "reused from earlier runs: 6 judgments" in capfd.readouterr().err
    assert Path("o.jsonl").read_text().startswith(first)
    assert set(count_calls().values()) == {1}
    assert count_calls().total() == 12 * CALLS_PER_ROW

    assert main([*COMMAND, "--out", "uninterrupted.jsonl"]) == 0
    assert Path("o.jsonl").read_bytes() == Path("uninterrupted.jsonl").read_bytes()


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_killed_run_resumes_and_ends_like_an_uninterrupted_one(out: str) -> None:
    write_rows(16, r10="SIGKILL")
    flags = ("--concurrency", "4", "--out", out)
    run_until_killed(*flags)
    working = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
    judged = read_ids(str(working))
    assert 4 <= len(judged) < 16
    with working.open("a") as file:
        file.write('{"id": "r15", "sta')  # a kill can leave an incomplete line
    calls_before = count_calls()

    assert main([*COMMAND, *flags]) == 0
    new_calls = count_calls() - calls_before
    assert not any(count_calls_for(row_id, new_calls) for row_id in judged)
    assert (count_calls() - Counter(set(count_calls()))).total() <= 4  # calls that were in progress
    assert list_files() == {"c.jsonl", out, f"{out}.ledger"}

    assert main([*COMMAND, "--out", "uninterrupted.jsonl"]) == 0
    write_table(Path("o.jsonl"), read_rows(out))  # for the same format
    assert list(map(_drop_nulls, read_rows("o.jsonl"))) == list(map(_drop_nulls, read_rows("uninterrupted.jsonl")))


def _drop_nulls(row: dict[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in row.items() if value is not None}
    return values | {"comparison": read_comparison_json(row)}  # JSON text in Parquet


def crashing_judge(prompt: str, sampling: Sampling) -> str:
    """Judge like `scripts.fair_judge`, but lose the engine once, at the candidate `doom`."""
    mark = Path(os.environ["FLEX_JUDGE_TEST_CALLS"]).with_name("doom")
    if "doom" in prompt and not mark.exists():
        mark.touch()
        raise EngineLostError("the engine died")
    return scripts.fair_judge(prompt, sampling)


def test_lost_engine_ends_the_run_and_keeps_judgments(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(6, r3="doom")
    command = [*COMMAND, "--model", f"{__name__}:crashing_judge", "--concurrency", "1", "--out", "o.jsonl"]
    assert main(command) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "flex-judge: EngineLostError: the engine died"
    assert read_ids("o.jsonl") == ["r0", "r1", "r2"]
    assert main(command) == 0
    assert read_ids("o.jsonl") == [f"r{i}" for i in range(6)]


def test_resumes_without_a_ledger() -> None:
    write_rows(r6="SIGKILL")
    flags = ("--no-ledger", "--concurrency", "2", "--out", "o.jsonl")
    run_until_killed(*flags)
    judged = read_ids("o.jsonl")
    calls_before = count_calls()
    assert main([*COMMAND, *flags]) == 0
    assert not any(count_calls_for(row_id, count_calls() - calls_before) for row_id in judged)
    assert read_ids("o.jsonl") == [f"r{i}" for i in range(12)]
    assert list_files() == {"c.jsonl", "o.jsonl"}


def test_ledger_keeps_the_thinking_of_an_unfinished_judgment() -> None:
    write_rows(4, r2="late SIGINT")
    flags = ("--concurrency", "1", "--ledger", "kept.ledger", "--out", "o.jsonl")
    assert main([*COMMAND, *flags]) == 130
    Path("o.jsonl").unlink()
    assert main([*COMMAND, *flags]) == 0
    assert set(count_calls().values()) == {1}


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_finished_run_judges_nothing_again(out: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows()
    assert main([*COMMAND, "--no-ledger", "--out", out]) == 0
    first, calls_before = read_rows(out), count_calls()
    assert main([*COMMAND, "--no-ledger", "--out", out]) == 0
    assert count_calls() == calls_before
    assert read_rows(out) == first
    assert "reused from earlier runs: 12 judgments" in capfd.readouterr().err
    assert list_files() == {"c.jsonl", out}


def test_added_rows_are_judged_and_put_in_input_order() -> None:
    write_rows(3)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    write_rows(5)
    lines = Path("c.jsonl").read_text().splitlines()
    Path("c.jsonl").write_text("\n".join(reversed(lines)))
    calls_before = count_calls()
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    assert (count_calls() - calls_before).total() == 2 * CALLS_PER_ROW
    assert read_ids("o.jsonl") == ["r4", "r3", "r2", "r1", "r0"]


def test_changed_comparison_with_the_same_id_is_judged_again() -> None:
    write_rows(4)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    first, calls_before = read_rows("o.jsonl"), count_calls()
    write_rows(4, r2="Something else.")
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    assert (
        (count_calls() - calls_before).total() == count_calls_for("r2", count_calls() - calls_before) == CALLS_PER_ROW
    )
    second = read_rows("o.jsonl")
    assert [row["id"] for row in second] == ["r0", "r1", "r2", "r3"]
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize("change", [("--max-answer-tokens", "65"), ("--rubric", "pandalm"), ("--order", "both")])
def test_changed_settings_repeat_all_judgments(change: tuple[str, str]) -> None:
    write_rows(3)
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    calls_before = count_calls()
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl", *change]) == 0
    assert (count_calls() - calls_before).total() >= 3 * CALLS_PER_ROW


@pytest.mark.parametrize("status", ["timeout", "engine_lost", "overlong", "invalid_input"])
def test_judgment_that_may_succeed_is_retried(status: str) -> None:
    write_rows(3)
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    first = read_rows("o.jsonl")
    write_table(Path("o.jsonl"), [first[0], {**first[1], "status": status, "scores": None}, first[2]])
    calls_before = count_calls()
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    assert (
        (count_calls() - calls_before).total() == count_calls_for("r1", count_calls() - calls_before) == CALLS_PER_ROW
    )
    assert read_rows("o.jsonl") == first


def test_judgment_without_a_verdict_is_final() -> None:
    write_rows(3, r1="mumble")
    assert main([*COMMAND, "--no-ledger", "--no-force", "--out", "o.jsonl"]) == 1
    calls_before = count_calls()
    assert main([*COMMAND, "--no-ledger", "--no-force", "--out", "o.jsonl"]) == 1
    assert count_calls() == calls_before
    assert read_rows("o.jsonl")[1]["status"] == "unparseable"


def test_replay_parses_all_replies_again() -> None:
    write_rows(2)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    first = read_rows("o.jsonl")
    write_table(Path("o.jsonl"), [{**row, "scores": [9.0, 9.0]} for row in first])
    assert main([*COMMAND, "--out", "o.jsonl", "--replay", "o.jsonl.ledger"]) == 0
    assert read_rows("o.jsonl") == first


def test_a_row_that_became_invalid_is_no_longer_judged() -> None:
    picture = {"id": "r0", "prompt": "Hi", "responses": ["a", "b"], "images": ["cat.png"]}
    text = {"id": "r1", "prompt": "Hi", "responses": ["c", "d"]}
    write_table(Path("in.jsonl"), [{name: value for name, value in picture.items() if name != "images"}, text])
    command = [*(argument if argument != "c.jsonl" else "in.jsonl" for argument in COMMAND), "--out", "o.jsonl"]
    assert main(command) == 0
    first = read_rows("o.jsonl")
    write_table(Path("in.jsonl"), [picture, text])
    assert main(command) == 1
    assert [(row["id"], row["status"]) for row in read_rows("o.jsonl")] == [("r0", "invalid_input"), ("r1", "ok")]
    assert read_rows("o.jsonl")[1] == first[1]
    write_table(Path("in.jsonl"), [{name: value for name, value in picture.items() if name != "images"}, text])
    assert main(command) == 0
    assert read_rows("o.jsonl") == first  # from the ledger


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
@pytest.mark.parametrize("correction", [['{"id": "r1", "prompt": "Hi", "responses": ["c"]}'], []])
def test_resumes_after_a_row_that_could_not_be_read_was_corrected_or_deleted(out: str, correction: list[str]) -> None:
    first, last = (f'{{"id": "r{i}", "prompt": "Hi", "responses": ["a"]}}' for i in (0, 2))
    Path("in.jsonl").write_text("\n".join([first, '{"id": "r1", "prompt"', last]))
    command = [*(argument if argument != "c.jsonl" else "in.jsonl" for argument in COMMAND), "--out", out]
    assert main(command) == 1
    assert [row["id"] for row in read_rows(out)] == ["r0", "2", "r2"]
    Path("in.jsonl").write_text("\n".join([first, *correction, last]))
    assert main(command) == 0
    ids = ["r0", "r1", "r2"] if correction else ["r0", "r2"]
    assert [(row["id"], row["status"]) for row in read_rows(out)] == [(id_, "ok") for id_ in ids]


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_rejects_an_output_in_use_by_another_process(out: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(3)
    working = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
    with working.open("a") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        assert main([*COMMAND, "--out", out]) == 2
    error = capfd.readouterr().err
    assert (
        error == f"flex-judge: error: {working}: is in use by another process; wait for it, or choose another --out\n"
    )
    assert not count_calls()
    assert main([*COMMAND, "--out", out]) == 0
