"""`flex-judge best-of-n` and `flex-judge preferences`, as a user runs them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from alignment.scale.job import Job, shard_rows_for
from alignment.scale.models import LocalModels
from alignment.scale.parts import Parts
from alignment.scale.worker import ShardWorker
from experiments.best_of_n import BestOfNRun, write_summary
from experiments.cli import main
from experiments.data_view import exit_status, print_best_of_n
from experiments.preferences import PreferenceRun
from experiments.run_folder import RunFolder
from judges.errors import UsageError

SCRIPTED = {"engine": "scripted", "policy": "scripts:slow_drawn_policy", "model": "scripts:fair_judge"}


def flags(settings: dict[str, Any]) -> list[str]:
    return [text for name, value in settings.items() for text in ("--" + name.replace("_", "-"), str(value))]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", ["best-of-n", "preferences"])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["p.csv"], "expected a file that ends in .jsonl or .parquet"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--rubric", "nonsense"], "nonsense"),
        (["--column", "prompt"], "expected FIELD=COLUMN"),
        (["--answer", "result"], "--answer is about the columns of a FILE, and none is given"),
        (["--policy", "/no/such/model"], "/no/such/model"),
        (["--policy-engine", "nonsense"], "engine 'nonsense' does not exist"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--sample-top-p", "2"], "--sample-top-p above 0 and at most 1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_before_anything_starts(
    command: str, arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    status = main([command, *arguments, "--out", str(out)])
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert complaint in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="halving asks a judge again"):
        BestOfNRun(method="halving", temperature=0.0)
    with pytest.raises(UsageError, match="--hot-temperature must be above"):
        PreferenceRun(rule="two_temperatures", sample_temperature=1.3)
    with pytest.raises(UsageError, match="format 'reward' is for text alone"):
        PreferenceRun(format="reward", with_images=True)


def test_the_rule_of_two_temperatures_has_its_pairs_read_in_both_orders() -> None:
    assert PreferenceRun(rule="two_temperatures").settings_for("smollm2-135m").order == "both"
    assert PreferenceRun().settings_for("smollm2-135m").order == "as_given"


async def _here(config: BestOfNRun, file: str | None, folder: Path) -> dict[str, str]:
    """What a run gives that nothing disturbs, without Ray: the text of each table."""
    from alignment.scale.best_of_n import BestOfNPlan

    source = config.source(file)
    models = LocalModels(config.policy_config, config.judge_config)
    plan = BestOfNPlan(models, config.sampling(file), config.samples, config.selection(file))
    job = Job(source, plan, folder, config.columns_for(file), shard_rows_for(len(source)))
    worker = ShardWorker(job)
    await asyncio.gather(*(worker.shard(n) for n in range(job.shards)))
    parts = Parts(folder)
    for table in plan.tables:
        parts.join(table, range(job.shards), folder / table)
    return {table: (folder / table).read_text() for table in plan.tables}


def test_the_summary_says_how_many_are_right_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = BestOfNRun(**SCRIPTED, prompts=40, samples=4, temperature=0.0, out=str(tmp_path / "run"))
    tables = asyncio.run(_here(config, None, tmp_path / "parts"))
    with RunFolder(tmp_path / "run", {"judge": "j", "policy": "p"}) as folder:
        (folder.path / "best_of_n.jsonl").write_text(tables["best_of_n"])
        summary = write_summary(folder, Parts(tmp_path / "parts").reports()[0], "answer")
    shown = summary["accuracies"]
    rows = [json.loads(line) for line in tables["best_of_n"].splitlines()]
    right = [f"is {row['kept']['answer']}." in row["text"] for row in rows]
    assert shown["best"][4]["value"] == sum(right) / 40
    assert shown["best"][4]["low"] < shown["best"][4]["value"] < shown["best"][4]["high"]
    assert shown["random"]["value"] <= shown["any"][4]["value"]
    print_best_of_n(summary, tmp_path)
    assert "Right: best of 4" in capsys.readouterr().out


def test_the_exit_status_tells_of_lost_prompts() -> None:
    summary = {"lost": {"bad row": 2, "engine_lost": 1}}
    assert (exit_status(summary, 2), exit_status(summary, 3)) == (1, 0)


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    """On Ray Data and Serve; the undisturbed one runs within this process."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"What is {n} + {n % 7}?", "id": f"q{n}", "answer": n + n % 7} for n in range(120)]
    rows[50] = {"question": "in the wrong column"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SCRIPTED | {"samples": 4, "temperature": 0.0, "answer": "answer", "max_failures": 1}
    config = BestOfNRun(**settings, out=str(tmp_path / "run"))  # type: ignore[arg-type]
    undisturbed = asyncio.run(_here(config, str(file), tmp_path / "parts"))

    run = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.cli", "best-of-n", str(file), *flags(settings), "--out", str(run)]
    for share in (1 / 3, 2 / 3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 200
        while len(list((run / "parts").glob("report-*.json"))) < share * 60 and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    reports = len(Parts(run / "parts").reports())
    assert 40 <= reports < 60
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "lost: bad row" in done.stdout
    assert (run / "best_of_n.jsonl").read_text() == undisturbed["best_of_n"]
    assert (run / "judgments.jsonl").read_text() == undisturbed["judgments"]
    (lost,) = (run / "lost.jsonl").read_text().splitlines()
    assert "prompts.jsonl, line 51: field 'prompt' is missing; there are question (--column)" in lost
