"""A run of `flex-judge judge` that is interrupted goes on with the same command, and judges nothing twice."""

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

from flex_judge.experiments.cli import main
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import EngineLostError
from flex_judge.judges.io.files import read_table, write_table

COMMAND = ["judge", "c.jsonl", "--engine", "scripted", "--model", "scripts:logged_judge", "--max-think-tokens", "400"]
CALLS_A_ROW = 2  # to think, and to answer


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and beside it the place where the script notes its calls."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("FLEX_JUDGE_TEST_CALLS", str(tmp_path / "notes" / "calls"))
    return tmp_path


def write_rows(count: int = 12, **second: str) -> None:
    """Comparisons with numbers as ids; `second` replaces the second response of some."""
    rows = [
        {"id": f"r{i}", "prompt": f"What is {i}?", "responses": [f"It is {i}.", second.get(f"r{i}", f"It was {i}.")]}
        for i in range(count)
    ]
    Path("c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def calls() -> Counter[str]:
    """How often the engine was asked for each thing, so far."""
    file = Path(os.environ["FLEX_JUDGE_TEST_CALLS"])
    return Counter(file.read_text().splitlines() if file.exists() else [])


def asked_about(name: str, counted: Counter[str]) -> int:
    """Calls about the row of that id."""
    return sum(n for call, n in counted.items() if f"What is {name[1:]}?" in call)


def ids(path: str) -> list[str]:
    return [row["id"] for row in rows(path)]


def rows(path: str) -> list[dict[str, Any]]:
    return [row for _, row in read_table(Path(path))]


def here() -> set[str]:
    return {p.name for p in Path().iterdir()}


def killed(*flags: str) -> None:
    """The command in a process of its own, which sends itself SIGKILL on the way."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "flex_judge.experiments.cli", *COMMAND, *flags]
    assert subprocess.run(command, capture_output=True, env=environment, timeout=60).returncode == -signal.SIGKILL


def test_ctrl_c_keeps_what_was_judged_and_the_same_command_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(r6="SIGINT")
    command = [*COMMAND, "--concurrency", "1", "--out", "o.jsonl"]
    assert main(command) == 130
    assert "run the same command again to resume" in capfd.readouterr().err.splitlines()[-1]
    assert ids("o.jsonl") == [f"r{i}" for i in range(6)]
    first = Path("o.jsonl").read_text()

    assert main(command) == 0
    assert "kept from an earlier run: 6 judgments" in capfd.readouterr().err
    assert Path("o.jsonl").read_text().startswith(first)
    assert set(calls().values()) == {1}
    assert calls().total() == 12 * CALLS_A_ROW

    assert main([*COMMAND, "--out", "undisturbed.jsonl"]) == 0
    assert Path("o.jsonl").read_bytes() == Path("undisturbed.jsonl").read_bytes()


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_a_killed_run_goes_on_and_ends_like_an_undisturbed_one(out: str) -> None:
    write_rows(16, r10="SIGKILL")
    flags = ("--concurrency", "4", "--out", out)
    killed(*flags)
    working = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
    judged = ids(str(working))
    assert 4 <= len(judged) < 16
    with working.open("a") as file:
        file.write('{"id": "r15", "sta')  # what a kill leaves of a judgment that was being written
    before = calls()

    assert main([*COMMAND, *flags]) == 0
    anew = calls() - before
    assert not any(asked_about(name, anew) for name in judged)
    assert (calls() - Counter(set(calls()))).total() <= 4  # those that were under way
    assert here() == {"c.jsonl", out, f"{out}.ledger"}

    assert main([*COMMAND, "--out", "undisturbed.jsonl"]) == 0
    write_table(Path("o.jsonl"), rows(out))  # the same format
    assert list(map(_plain, rows("o.jsonl"))) == list(map(_plain, rows("undisturbed.jsonl")))


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def mortal_judge(prompt: str, sampling: Sampling) -> str:
    """As `scripts.fair_judge`, in an engine that is lost at the candidate `doom`, once."""
    mark = Path(os.environ["FLEX_JUDGE_TEST_CALLS"]).with_name("doom")
    if "doom" in prompt and not mark.exists():
        mark.touch()
        raise EngineLostError("the engine died")
    return scripts.fair_judge(prompt, sampling)


def test_a_lost_engine_ends_the_run_and_loses_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(6, r3="doom")
    command = [*COMMAND, "--model", f"{__name__}:mortal_judge", "--concurrency", "1", "--out", "o.jsonl"]
    assert main(command) == 1
    assert capfd.readouterr().err.splitlines()[-1] == "flex-judge: EngineLostError: the engine died"
    assert ids("o.jsonl") == ["r0", "r1", "r2"]
    assert main(command) == 0
    assert ids("o.jsonl") == [f"r{i}" for i in range(6)]


def test_without_a_ledger_too_no_judged_comparison_is_judged_again() -> None:
    write_rows(r6="SIGKILL")
    flags = ("--no-ledger", "--concurrency", "2", "--out", "o.jsonl")
    killed(*flags)
    judged = ids("o.jsonl")
    before = calls()
    assert main([*COMMAND, *flags]) == 0
    assert not any(asked_about(name, calls() - before) for name in judged)
    assert ids("o.jsonl") == [f"r{i}" for i in range(12)]
    assert here() == {"c.jsonl", "o.jsonl"}


def test_a_ledger_keeps_the_thinking_of_a_judgment_that_was_not_finished() -> None:
    write_rows(4, r2="late SIGINT")
    flags = ("--concurrency", "1", "--ledger", "kept.ledger", "--out", "o.jsonl")
    assert main([*COMMAND, *flags]) == 130
    Path("o.jsonl").unlink()
    assert main([*COMMAND, *flags]) == 0
    assert set(calls().values()) == {1}


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_a_finished_run_judges_nothing_when_it_is_run_again(out: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows()
    assert main([*COMMAND, "--no-ledger", "--out", out]) == 0
    first, before = rows(out), calls()
    assert main([*COMMAND, "--no-ledger", "--out", out]) == 0
    assert calls() == before
    assert rows(out) == first
    assert "kept from an earlier run: 12 judgments" in capfd.readouterr().err
    assert here() == {"c.jsonl", out}


def test_rows_that_are_added_are_judged_and_come_where_they_stand() -> None:
    write_rows(3)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    write_rows(5)
    lines = Path("c.jsonl").read_text().splitlines()
    Path("c.jsonl").write_text("\n".join(reversed(lines)))
    before = calls()
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    assert (calls() - before).total() == 2 * CALLS_A_ROW
    assert ids("o.jsonl") == ["r4", "r3", "r2", "r1", "r0"]


def test_a_changed_comparison_of_the_same_id_is_judged_again() -> None:
    write_rows(4)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    first, before = rows("o.jsonl"), calls()
    write_rows(4, r2="Something else.")
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    assert (calls() - before).total() == asked_about("r2", calls() - before) == CALLS_A_ROW
    second = rows("o.jsonl")
    assert [row["id"] for row in second] == ["r0", "r1", "r2", "r3"]
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize("change", [("--max-answer-tokens", "65"), ("--rubric", "pandalm"), ("--order", "both")])
def test_changed_settings_judge_all_again(change: tuple[str, str]) -> None:
    write_rows(3)
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    before = calls()
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl", *change]) == 0
    assert (calls() - before).total() >= 3 * CALLS_A_ROW


@pytest.mark.parametrize("status", ["timeout", "engine_lost", "overlong"])
def test_what_may_end_otherwise_is_tried_again(status: str) -> None:
    write_rows(3)
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    first = rows("o.jsonl")
    write_table(Path("o.jsonl"), [first[0], {**first[1], "status": status, "scores": None}, first[2]])
    before = calls()
    assert main([*COMMAND, "--no-ledger", "--out", "o.jsonl"]) == 0
    assert (calls() - before).total() == asked_about("r1", calls() - before) == CALLS_A_ROW
    assert rows("o.jsonl") == first


def test_a_judgment_without_a_verdict_is_final() -> None:
    write_rows(3, r1="mumble")
    assert main([*COMMAND, "--no-ledger", "--no-force", "--out", "o.jsonl"]) == 1
    before = calls()
    assert main([*COMMAND, "--no-ledger", "--no-force", "--out", "o.jsonl"]) == 1
    assert calls() == before
    assert rows("o.jsonl")[1]["status"] == "unparseable"


def test_a_replay_reads_all_replies_again_whatever_its_output_holds() -> None:
    write_rows(2)
    assert main([*COMMAND, "--out", "o.jsonl"]) == 0
    first = rows("o.jsonl")
    write_table(Path("o.jsonl"), [{**row, "scores": [9.0, 9.0]} for row in first])
    assert main([*COMMAND, "--out", "o.jsonl", "--replay", "o.jsonl.ledger"]) == 0
    assert rows("o.jsonl") == first


def test_a_row_that_is_lost_today_keeps_what_was_judged_of_it() -> None:
    picture = {"id": "r0", "prompt": "Hi", "responses": ["a", "b"], "images": ["cat.png"]}
    text = {"id": "r1", "prompt": "Hi", "responses": ["c", "d"]}
    write_table(Path("in.jsonl"), [{name: value for name, value in picture.items() if name != "images"}, text])
    command = [*(argument if argument != "c.jsonl" else "in.jsonl" for argument in COMMAND), "--out", "o.jsonl"]
    assert main(command) == 0
    first = rows("o.jsonl")
    write_table(Path("in.jsonl"), [picture, text])
    assert main(command) == 1
    assert sorted(row["id"] for row in rows("o.jsonl")) == ["r0", "r1"]
    assert rows("o.jsonl")[1] == first[0]


@pytest.mark.parametrize("out", ["o.jsonl", "o.parquet"])
def test_an_output_that_another_process_writes_is_refused(out: str, capfd: pytest.CaptureFixture[str]) -> None:
    write_rows(3)
    working = Path(out if out.endswith(".jsonl") else f"{out}.jsonl")
    with working.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert main([*COMMAND, "--out", out]) == 2
    error = capfd.readouterr().err
    assert (
        error == f"flex-judge: error: {working}: is in use by another process; wait for it, or choose another --out\n"
    )
    assert not calls()
    assert main([*COMMAND, "--out", out]) == 0
