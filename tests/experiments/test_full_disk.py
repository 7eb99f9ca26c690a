"""Commands on a full disk: one line, no traceback, and the same files as without the problem once there is space."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import benchmark_data
import pytest
from disk import run_on_full_disk
from eval_command import JUDGE
from processes import PROGRAM
from sft_command import build_sft_command, sft
from tiny_models import tiny_llama

from flex_judge.experiments.cli import main
from flex_judge.judges.io.jsonl import write_rows

SIZES = (700, 10_000)

JUDGE_COMMAND = ("judge", "rows.jsonl", "--engine", "scripted", "--model", "scripts:fair_judge", "--temperature", "0")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_comparisons() -> None:
    rows = [{"id": f"r{i}", "prompt": f"What is {i} + 1?", "responses": [f"It is {i + 1}."]} for i in range(30)]
    write_rows(Path("rows.jsonl"), rows)


def write_samples() -> None:
    rows = []
    for n in range(40):
        prompt = [{"role": "user", "content": f"What is {n % 9 + 2} + {n}?"}]
        responses = [f"It is {n % 9 + 2 + n + k}." for k in (0, 1, 0, -1)]
        rows.append({"id": f"q{n}", "prompt": prompt, "responses": responses, "kept": {"answer": n % 9 + 2 + n}})
    write_rows(Path("samples.jsonl"), rows)


def fill_disk_and_resume(command: Sequence[str], out: str) -> list[int]:
    """Run a command with growing limits of file sizes, at last without one, and once elsewhere as a reference.

    Returns:
        The exit statuses of the limited runs.
    """
    statuses = []
    for size in SIZES:
        process = run_on_full_disk(size, *command, "--out", out)
        statuses.append(process.returncode)
        if process.returncode:
            (line,) = [
                line for line in process.stderr.splitlines() if re.match(r"flex-judge: (error|\w+Error): ", line)
            ]
            assert line == process.stderr.splitlines()[-1]
            assert re.search(f"{out}.* cannot be (written|used)", line)
            assert "Traceback" not in process.stderr
    assert main([*command, "--out", out]) == 0
    assert main([*command, "--out", f"reference-{out}"]) == 0
    return statuses


@pytest.mark.parametrize("ledger", [(), ("--no-ledger",)])
def test_judge_resumes_identically(ledger: tuple[str, ...]) -> None:
    write_comparisons()
    assert all(fill_disk_and_resume([*JUDGE_COMMAND, *ledger], "run.jsonl"))
    assert Path("run.jsonl").read_bytes() == Path("reference-run.jsonl").read_bytes()


def test_judge_writes_parquet_once_there_is_space() -> None:
    write_comparisons()
    process = run_on_full_disk(1500, *JUDGE_COMMAND, "--no-ledger", "--out", "run.parquet")
    assert process.returncode == 1
    assert "StorageError: run.parquet.jsonl: cannot be written" in process.stderr
    assert main([*JUDGE_COMMAND, "--no-ledger", "--out", "run.parquet"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == [
        "rows.jsonl",
        "run.parquet",
        "run.parquet.html",
        "run.parquet.run.json",
    ]


def test_curate_resumes_identically() -> None:
    write_samples()
    command = ["curate", "--samples", "samples.jsonl", "--teacher", "synthetic", "--tokenizer", "scripted"]
    assert any(fill_disk_and_resume([*command, "--size", "80", "--held-out", "10"], "run"))
    for name in ("train.jsonl", "held_out.jsonl"):
        assert (Path("run") / name).read_bytes() == (Path("reference-run") / name).read_bytes()


def test_eval_resumes_identically(folder: Path) -> None:
    data = str(benchmark_data.write_pandalm(folder / "data"))
    assert any(fill_disk_and_resume(["eval", "pandalm", "--data", data, *JUDGE], "run"))
    assert Path("run/items.jsonl").read_bytes() == Path("reference-run/items.jsonl").read_bytes()


def test_report_leaves_the_old_page(folder: Path) -> None:
    data = str(benchmark_data.write_pandalm(folder / "data"))
    assert main(["eval", "pandalm", "--data", data, *JUDGE, "--out", "run"]) == 0
    page = Path("run/report.html").read_bytes()
    process = run_on_full_disk(1000, "report", "run")
    assert process.returncode == 1
    assert process.stderr.startswith("flex-judge: StorageError: run/report.html: cannot be written")
    assert process.stderr.count("\n") == 1
    assert Path("run/report.html").read_bytes() == page


def test_full_standard_output_is_one_line() -> None:
    write_comparisons()
    command = [*PROGRAM, *JUDGE_COMMAND, "--no-ledger"]
    with Path("/dev/full").open("w") as full:
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert process.stderr.splitlines()[-1] == "flex-judge: the output was not written: No space left on device"


@pytest.mark.slow
def test_sft_resumes_after_its_checkpoint_did_not_fit(folder: Path) -> None:
    write_samples()
    curate = ["curate", "--samples", "samples.jsonl", "--teacher", "synthetic", "--tokenizer", "scripted"]
    assert main([*curate, "--size", "80", "--held-out", "10", "--out", "data"]) == 0
    base = tiny_llama(folder / "base")
    process = run_on_full_disk(20_000, *build_sft_command(base, Path("data"), Path("run")))
    assert process.returncode == 1
    assert "Traceback" not in process.stderr
    assert re.search("^flex-judge: StorageError: .*cannot be written", process.stderr.splitlines()[-1])
    assert sft(base, Path("data"), Path("run")) == 0
