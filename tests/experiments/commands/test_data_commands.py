"""`flex-judge best-of-n` and `flex-judge preferences` from the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from html_page import HtmlPage
from scripts import SETTINGS, fair_judge
from served import served
from serving import running_cluster, within

import flex_judge.judges.rubrics as rubrics
from flex_judge.alignment.pipeline.job import Job, choose_shard_rows
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.shards import ShardFolder
from flex_judge.alignment.pipeline.worker import ShardWorker
from flex_judge.experiments.cli import main
from flex_judge.experiments.commands.best_of_n.config import BestOfNRun
from flex_judge.experiments.commands.best_of_n.run import write_summary
from flex_judge.experiments.commands.preferences.config import PreferenceRun
from flex_judge.experiments.commands.preferences.run import main as make_preferences
from flex_judge.experiments.commands.preferences.run import write_data
from flex_judge.experiments.common.data_runs.run import CompletedRun
from flex_judge.experiments.common.data_runs.view import compute_exit_status, print_best_of_n
from flex_judge.experiments.common.flags import make_config
from flex_judge.experiments.common.reporting.pages import write_page
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges import Comparison, FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UsageError

SCRIPTED = {"engine": "scripted", "policy": "scripts:slow_drawn_policy", "judge": "scripts:fair_judge"}


def to_flags(settings: dict[str, Any]) -> list[str]:
    return [text for name, value in settings.items() for text in ("--" + name.replace("_", "-"), str(value))]


def run_for_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("command", ["best-of-n", "preferences"])
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere.jsonl"], "nowhere.jsonl: cannot be read"),
        (["p.xlsx"], "expected a .jsonl, .json, .csv, .tsv or .parquet file, a folder"),
        (["--samples", "0"], "--samples must be at least 1"),
        (["--rubric", "nonsense"], "nonsense"),
        (["--column", "prompt"], "expected FIELD=COLUMN"),
        (["--answer", "result"], "--answer refers to a column of FILE, but there is no FILE"),
        (["--policy", "/no/such/model"], "/no/such/model"),
        (["--policy-engine", "nonsense"], "engine 'nonsense' does not exist"),
        (["--address", "127.0.0.1:1"], "no Ray cluster answers"),
        (["--prompts", "1000000"], "different questions, not 1000000"),
        (["--sample-top-p", "2"], "--sample-top-p must be above 0 and at most 1"),
        (["--judge-url", "http://127.0.0.1:1"], "check that the judge service runs there"),
        (["--judge-url", "http://h", "--votes", "3"], "--votes is configured at the service with --judge-url"),
        (["--judge-key", "env:KEY"], "--judge-key goes with --judge-url"),
    ],
)
def test_bad_input_gives_one_line_before_anything_starts(
    command: str, arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    status = main([command, *arguments, "--out", str(out)])
    error = capsys.readouterr().err
    assert status in (1, 2)
    assert complaint in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_rejects_incompatible_settings() -> None:
    with pytest.raises(UsageError, match="--method halving needs a --temperature above 0"):
        make_config(BestOfNRun, method="halving", temperature=0.0)
    with pytest.raises(UsageError, match="--hot-temperature must be above"):
        make_config(PreferenceRun, rule="two_temperatures", sample_temperature=1.3)
    with pytest.raises(UsageError, match="samples one answer per temperature; leave --samples out"):
        make_config(PreferenceRun, rule="two_temperatures", samples=4)
    with pytest.raises(UsageError, match="needs at least 2 answers per prompt, got 1"):
        make_config(PreferenceRun, samples=1)
    with pytest.raises(UsageError, match="greedy samples of a prompt are all the same"):
        make_config(BestOfNRun, sample_temperature=0.0)
    with pytest.raises(UsageError, match="format 'reward' is text-only"):
        make_config(PreferenceRun, format="reward", with_images=True)


def test_rejects_settings_that_a_method_cannot_judge(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, complaint in (
        (["--method", "round_robin", "--samples", "65"], "at most 64 for the method 'round_robin'"),
        (["--method", "knockout", "--samples", "1"], "the method 'knockout' compares"),
        (["--method", "listwise", "--rubric", "mllm_judge_pair"], "mllm_judge_pair"),
    ):
        assert complaint in run_for_error(capsys, "best-of-n", *arguments, "--out", "/nonexistent/run")


def test_identity_includes_contents_of_rubric_and_model_folder(tmp_path: Path) -> None:
    rubric, model = tmp_path / "brief.toml", tmp_path / "model"
    model.mkdir()
    identities = []
    for criteria, weights in (("brevity", "1"), ("brevity", "2"), ("length", "2")):
        rubric.write_text(f'criteria = "{criteria}"\nscale = "1-5"\nexample = [2, 4]\n')
        (model / "model.safetensors").write_text(weights)
        config = make_config(BestOfNRun, rubric=str(rubric), policy=str(model))
        identities.append(config.build_identity(config.open_prompts(None), None))
    assert [len({str(identity[name]) for identity in identities}) for name in ("policy", "rubric")] == [2, 2]


def test_judges_with_a_running_service() -> None:
    engine = ScriptedEngine(fair_judge)
    with served(FlexJudge(engine, SETTINGS)) as service:
        config = make_config(BestOfNRun, judge_url=service.url, max_batch=4)
        assert config.external_judge is not None
        comparison = Comparison.of("What is 2 + 3?", "The result is 5.", id="c1")
        judgment = asyncio.run(config.external_judge.make_ask()(comparison))
        assert (judgment.id, judgment.scores) == ("c1", FlexJudge(engine, SETTINGS).judge([comparison])[0].scores)
        rubric_file = Path(rubrics.__file__).parent / "presets" / "general.toml"
        with_file = make_config(BestOfNRun, judge_url=service.url, rubric=str(rubric_file))
        with pytest.raises(UsageError, match=r"cannot open the rubric file .*general.toml; ask its operator to start"):
            with_file.check_models()


def test_rejects_a_pointwise_rubric_for_pairs_before_sampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config(
        PreferenceRun,
        rule="two_temperatures",
        rubric="membrane_permeability",
        engine="scripted",
        judge="scripts:fair_judge",
        policy="scripts:drawn_policy",
    )
    with pytest.raises(UsageError, match="is made for 1 responses at a time, not 2"):
        make_preferences(config, None)
    assert not (tmp_path / "runs").exists()


def test_rule_two_temperatures_reads_pairs_in_both_orders() -> None:
    assert make_config(PreferenceRun, rule="two_temperatures").build_settings("smollm2-135m").order == "both"
    assert make_config(PreferenceRun).build_settings("smollm2-135m").order == "as_given"


async def _run_without_ray(config: BestOfNRun, file: str | None, folder: Path) -> dict[str, str]:
    """Run without Ray and interruptions, and return the text of each table."""
    from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan

    source = config.open_prompts(file)
    models = LocalModels(config.policy_config, config.judge_config)
    plan = BestOfNPlan(models, config.build_sampling(file), config.samples, config.build_selection(file))
    job = Job(source, plan, folder, config.build_columns(file), choose_shard_rows(len(source)))
    worker = ShardWorker(job)
    await asyncio.gather(*(worker.process_shard(n) for n in range(job.shard_count)))
    parts = ShardFolder(folder)
    for table in plan.tables:
        parts.join_table(table, range(job.shard_count), folder / table)
    return {table: (folder / table).read_text() for table in plan.tables}


def test_summary_has_accuracies_with_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(BestOfNRun, **SCRIPTED, prompts=40, samples=4, temperature=0.0, out=str(tmp_path / "run"))
    tables = asyncio.run(_run_without_ray(config, None, tmp_path / "parts"))
    with RunFolder(tmp_path / "run", {"judge": "j", "policy": "p"}) as folder:
        (folder.path / "best_of_n.jsonl").write_text(tables["best_of_n"])
        summary = write_summary(folder, ShardFolder(tmp_path / "parts").read_reports()[0], "answer")
    accuracies = summary["accuracies"]
    rows = [json.loads(line) for line in tables["best_of_n"].splitlines()]
    right = [f"is {row['kept']['answer']}." in row["text"] for row in rows]
    assert accuracies["best"][4]["value"] == sum(right) / 40
    assert accuracies["best"][4]["low"] < accuracies["best"][4]["value"] < accuracies["best"][4]["high"]
    assert accuracies["random"]["value"] <= accuracies["pass_at"][4]["value"]
    print_best_of_n(summary, tmp_path)
    assert "Right: best of 4" in capsys.readouterr().out


def test_exit_status_counts_prompts_without_a_result() -> None:
    summary = {"failed": {"invalid_input": 2, "engine_lost": 1}, "unscored": 1}
    assert (compute_exit_status(summary, 3), compute_exit_status(summary, 4)) == (1, 0)


async def _make_pairs_without_ray(config: PreferenceRun, folder: Path) -> CompletedRun:
    source = config.open_prompts(None)
    models = LocalModels(config.policy_config, config.judge_config)
    job = Job(source, config.make_plan(models, None), folder, config.build_columns(None), 4)
    worker = ShardWorker(job)
    for number in range(job.shard_count):
        await worker.process_shard(number)
    return CompletedRun(ShardFolder(folder), ShardFolder(folder).read_reports())


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
@pytest.mark.parametrize("format", ["preference", "kto"])
def test_preference_data_set_loads_with_its_card(file_format: str, format: str, tmp_path: Path) -> None:
    from datasets import load_dataset

    settings: dict[str, Any] = {"prompts": 10, "samples": 4, "format": format, "file_format": file_format}
    config = make_config(PreferenceRun, **SCRIPTED, **settings, temperature=0.0)
    done = asyncio.run(_make_pairs_without_ray(config, tmp_path / "parts"))
    stats, right = write_data(config, tmp_path / "data", done, "sums", None)
    data = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == stats.rows
    assert right is not None
    assert sum(right.values()) == stats.pairs > 0
    assert f"{stats.pairs}" in (tmp_path / "data" / "README.md").read_text()
    # A second data set in the same folder with as many rows must not be read from the cache of `datasets`.
    other = make_config(PreferenceRun, **SCRIPTED, **settings, temperature=0.0, seed=1)
    write_data(other, tmp_path / "data", asyncio.run(_make_pairs_without_ray(other, tmp_path / "others")), "sums", None)
    again = load_dataset(str(tmp_path / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    stored = load_dataset(
        {"jsonl": "json"}.get(file_format, file_format),
        data_files=str(tmp_path / "data" / f"train.{file_format}"),
        split="train",
        cache_dir=str(tmp_path / "elsewhere"),
    )
    assert again["prompt"] == stored["prompt"] != data["prompt"]


@pytest.mark.slow
def test_run_that_is_killed_twice_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Kill a run on a joined cluster twice; compare it with an uninterrupted run in this process."""
    file = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"What is {n} + {n % 7}?", "id": f"q{n}", "answer": n + n % 7} for n in range(120)]
    rows[50] = {"question": "in the wrong column"}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = SCRIPTED | {"samples": 4, "temperature": 0.0, "answer": "answer", "max_failures": 1}
    run = tmp_path / "run"
    config = make_config(BestOfNRun, **settings, out=str(run))  # type: ignore[arg-type]
    uninterrupted = asyncio.run(_run_without_ray(config, str(file), tmp_path / "parts"))
    command = [
        sys.executable,
        "-m",
        "flex_judge.experiments.cli",
        "best-of-n",
        str(file),
        *to_flags(settings),
        "--out",
        str(run),
    ]
    with running_cluster() as address:
        command += ["--address", address]
        for share in (1 / 3, 2 / 3):
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            for _ in within(200, what="a share of the shards"):
                assert process.poll() is None
                if len(list((run / "shards").glob("report-*.json"))) >= share * 60:
                    break
            process.kill()
            process.wait()
        # Ray ends the tasks of a killed run only after a while, and until then they still write results.
        count = -1
        for _ in within(60, what="the end of all tasks"):
            if count == (count := len(list((run / "shards").glob("report-*.json")))):
                break
            time.sleep(3)
        assert 40 <= count < 60
        done = sum(report.rows for report in ShardFolder(run / "shards").read_reports().values())
        cards = HtmlPage.load(write_page(run)).cards
        assert cards["Left"] == f"{120 - done} of 120 prompts"
        process = subprocess.run(command, capture_output=True, text=True, timeout=300)
        script = (
            "from flex_judge.reward.serving.cluster import connect\n"
            f"with connect({address!r}):\n"
            "    from ray import serve\n"  # after connect, because Ray reads its settings when it is imported
            "    print('left:', list(serve.status().applications))"
        )
        cluster_check = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert process.returncode == 0, process.stderr
    assert "failed: invalid input" in process.stdout
    assert (run / "best_of_n.jsonl").read_text() == uninterrupted["best_of_n"]
    assert (run / "judgments.jsonl").read_text() == uninterrupted["judgments"]
    (failed,) = (run / "failed.jsonl").read_text().splitlines()
    assert "prompts.jsonl, line 51, field 'prompt': missing or null; the columns are question" in failed
    page = HtmlPage.load(run / "report.html")
    assert page.cards["Prompts with a best answer"] == "119 of 120"
    assert "line 51, field 'prompt': missing or null" in page.find_items("failed")[0]
    assert "left: []" in cluster_check.stdout, cluster_check.stderr
