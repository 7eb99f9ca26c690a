"""Commands that use a judge service: no engine of their own, and the results of the same judge in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import benchmark_data as data
import pytest
from curating import data as make_reference_row
from curating import read, written
from eval_command import JUDGE, Run
from served import ServedJudge, served

import flex_judge.experiments.commands.eval.engines as eval_engines
import flex_judge.experiments.commands.judge.run as judge_run
from flex_judge.experiments.commands.judge.config import JudgeRun
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges import FlexJudge
from flex_judge.judges.errors import UsageError
from flex_judge.judges.types import Message
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.server.config import GatewayConfig
from flex_judge.reward.types import RewardSpec, Sample

SETTINGS: dict[str, Any] = {"engine": "scripted", "model": "scripts:whole_judge", "max_think_tokens": 400}


@pytest.fixture(scope="module")
def service() -> Iterator[ServedJudge]:
    judge = FlexJudge.from_config(make_config(JudgeRun, **SETTINGS, forced_answer=False).judge_config)
    with served(judge) as running:
        yield running


@pytest.fixture(scope="module")
def open_service() -> Iterator[ServedJudge]:
    """Service that takes rubrics from requests."""
    judge = FlexJudge.from_config(make_config(JudgeRun, **SETTINGS, forced_answer=False).judge_config)
    with served(judge, GatewayConfig(allow_inline_rubrics=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (judge_run, eval_engines):
        monkeypatch.setattr(module, "load_engine", lambda *_: pytest.fail("started an engine"))


def write_comparisons(path: Path) -> str:
    rows = [f"Question {n}?,says={n + 1},says={9 - n},{n}" for n in range(4)]
    path.write_text("\n".join(["q,first,second,row", *rows, "Last?,mumble,says=3,4"]) + "\n")
    return str(path)


COLUMNS = ["--column", "prompt=q", "--column", "responses=first", "--column", "responses=second"]


def drop_origin(row: dict[str, Any]) -> dict[str, Any]:
    """Drop what differs between a service and a judge in this process."""
    provenance = {name: value for name, value in row["provenance"].items() if name not in ("key", "replica")}
    return {**row, "provenance": provenance}


@pytest.mark.usefixtures("no_engine")
def test_judge_with_a_service_resumes(service: ServedJudge, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = write_comparisons(folder / "rows.csv")
    command = ["judge", file, *COLUMNS, "--judge-url", service.url, "--max-failures", "1"]
    first = Run(capfd, *command, "--out", "remote.jsonl")
    assert (first.status, "4 of 5 comparisons scored: 1 unparseable" in first.err) == (0, True)
    judged = [path for _, path in service.requests].count("/v1/judge")
    again = Run(capfd, *command, "--out", "remote.jsonl")
    assert "reused from earlier runs: 5 judgments" in again.err
    assert [path for _, path in service.requests].count("/v1/judge") == judged + 1  # the check of the key


def test_service_gives_the_results_of_a_judge_in_this_process(
    service: ServedJudge, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write_comparisons(folder / "rows.csv")
    command = ["judge", file, *COLUMNS, "--max-failures", "1"]
    Run(capfd, *command, "--judge-url", service.url, "--out", "remote.jsonl")
    Run(capfd, *command, *JUDGE, "--out", "local.jsonl")
    remote, local = ([drop_origin(row) for row in read(Path(f"{name}.jsonl"))] for name in ("remote", "local"))
    assert remote == local


@pytest.mark.usefixtures("no_engine")
def test_single_comparison_is_judged_by_a_service(service: ServedJudge, capfd: pytest.CaptureFixture[str]) -> None:
    pair = ["--response", "says=2", "--response", "says=8"]
    run = Run(capfd, "judge", "--prompt", "Why?", *pair, "--judge-url", service.url, "--json")
    assert json.loads(run.out)["scores"] == [2.0, 8.0]


def test_benchmark_with_a_service_has_the_metrics_of_a_judge_in_this_process(
    service: ServedJudge, folder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(data.write_pandalm(folder))
    local = Run(capfd, "eval", "pandalm", "--data", file, *JUDGE, "--out", "local", "--json").json
    monkeypatch.setattr(eval_engines, "load_engine", lambda *_: pytest.fail("started an engine"))
    remote = Run(capfd, "eval", "pandalm", "--data", file, "--judge-url", service.url, "--out", "remote", "--json")
    assert remote.json["tasks"] == local["tasks"]
    assert remote.json["judge"] == local["judge"]
    assert remote.json["settings"]["temperature"] == 0.4  # of the service, not of the benchmark's protocol
    assert "temperature is 0.4; the published protocol has 0.6" in remote.json["notes"]


def test_benchmark_data_with_other_column_names_are_read(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(data.write_pandalm(folder).read_text())
    plain = Run(capfd, "eval", "pandalm", "--data", "testset-v1.json", *JUDGE, "--out", "plain", "--json").json
    other = [{"task": row.pop("instruction"), **row} for row in rows]
    data.write_table(folder / "other.csv", other)
    command = ["eval", "pandalm", "--data", "other.csv", *JUDGE, "--out", "other", "--json"]
    assert Run(capfd, *command, "--column", "instruction=task").json["tasks"] == plain["tasks"]
    error = Run(capfd, *command, "--column", "instruction=tasks").err
    assert "has no column 'tasks'; the columns are task, " in error
    assert error.endswith("did you mean 'task'?\n")


def test_curation_with_a_service_has_the_judgments_of_a_judge_in_this_process(
    service: ServedJudge, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def make_row(n: int) -> dict[str, Any]:
        return make_reference_row(n, (8, 4), answer1_body=f"{n} says=8", answer2_body=f"{n} says=4")

    written(folder / "rows.jsonl", [make_row(n) for n in range(12)])
    sizes = ["--pointwise", "2", "--pairwise", "4", "--held-out", "2", "--pointwise-tokens", "0"]
    sizes += ["--pairwise-tokens", "0", "--max-similarity", "1", "--seeds", "1", "--tokenizer", "smollm2-135m"]
    # The replies are too much alike for training, so there is no example, but there are judgments.
    Run(capfd, "curate", "rows.jsonl", "--out", "local", *JUDGE[:-1], *sizes, "--temperature", "0.4")
    table = ["id,q,first,second,s1,s2", *(f"{n},What is {n}?,{n} says=8,{n} says=4,8,4" for n in range(12))]
    (folder / "rows.csv").write_text("\n".join(table))
    columns = ["question_body=q", "answer1_body=first", "answer2_body=second", "score=s1", "score=s2"]
    mapped = [text for column in columns for text in ("--column", column)]
    run = Run(capfd, "curate", "rows.csv", "--out", "remote", "--judge-url", service.url, *sizes, *mapped)
    assert "Usable judgments" in run.out, run.err
    remote, local = (read(Path(name, "judgments.jsonl")) for name in ("remote", "local"))
    assert [row["votes"] for row in remote] == [row["votes"] for row in local]
    assert read(Path("remote/held_out.jsonl"))[0]["prompt"] == read(Path("local/held_out.jsonl"))[0]["prompt"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["judge", "rows.csv", "--judge-url", "http://127.0.0.1:1"], "check that the judge service runs there"),
        (["judge", "rows.csv", "--judge-url", "http://h", "--votes", "3"], "--votes is configured at the service with"),
        (["judge", "rows.csv", "--judge-url", "http://h", "--model", "m"], "--model is configured at the service with"),
        (["judge", "rows.csv", "--judge-url", "http://h", "--ledger", "l"], "--ledger is of a judge in this run"),
        (["judge", "rows.csv", "--judge-url", "h"], "url must begin with http:// or https://"),
        (["judge", "rows.csv", "--judge-key", "env:KEY"], "--judge-key goes with --judge-url"),
        (["judge", "--prompt", "a", "--response", "b", "--column", "prompt=q"], "--column refers to a column of FILE"),
        (
            ["eval", "pandalm", "--data", ".", "--judge-url", "http://h", "--temperature", "1"],
            "--temperature is config",
        ),
        (["eval", "pandalm", "--data", ".", "--judge-url", "http://h", "--replicas", "2"], "--replicas is of a judge"),
        (["eval", "pandalm", "--data", ".", "--judge-url", "http://127.0.0.1:1"], "judge service runs there"),
        (["curate", "rows.csv", "--judge-url", "http://h", "--top-p", "1"], "--top-p is configured at the service"),
        (
            ["curate", "--samples", "s", "--teacher", "synthetic", "--judge-url", "http://h"],
            "--judge-url is of a model",
        ),
        (["curate", "rows.csv", "--column", "question=q"], "no field 'question'; did you mean 'question_body'?"),
    ],
)
def test_bad_input_gives_one_line(
    arguments: list[str], complaint: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "rows.csv").write_text('prompt,responses\nWhy?,"[""a"", ""b""]"\n')
    data.write_pandalm(folder)
    run = Run(capfd, *arguments)
    assert run.status in (1, 2)
    assert complaint in run.err
    assert run.err.count("\n") == 1


RUBRIC = 'criteria = "politeness"\nscale = "1-5"\n'


def test_rubric_file_is_sent_to_a_service_that_allows_it(
    open_service: ServedJudge, service: ServedJudge, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "polite.toml").write_text(RUBRIC)
    (folder / "rows.csv").write_text('prompt,responses\nWhy?,"[""says=2"", ""says=4""]"\nHow?,"[""says=9""]"\n')
    command = ["judge", "rows.csv", "--rubric", "polite.toml", "--json"]
    run = Run(capfd, *command, "--judge-url", open_service.url, "--max-failures", "1")
    local = Run(capfd, *command, *JUDGE, "--max-failures", "1")
    remote_rows, local_rows = ([json.loads(line) for line in out.splitlines()] for out in (run.out, local.out))
    assert [row["scores"] for row in remote_rows] == [row["scores"] for row in local_rows]
    assert remote_rows[0]["scores"] == [2.0, 4.0]
    assert remote_rows[1]["scores"] is None  # 9 is off the scale 1-5
    assert remote_rows[0]["provenance"]["rubric"].startswith("inline:")
    assert len(remote_rows[0]["provenance"]["rubric"]) < 30
    refused = Run(capfd, *command, "--judge-url", service.url)
    assert refused.status == 2
    assert "cannot open the rubric file polite.toml; ask its operator to start it with --allow-inline-rubrics" in (
        refused.err
    )
    assert refused.err.count("\n") == 1


def test_rewards_use_a_rubric_file(open_service: ServedJudge, service: ServedJudge, folder: Path) -> None:
    (folder / "polite.toml").write_text(RUBRIC)
    sample = Sample((Message("user", "Why?"),), "says=4")
    spec = RewardSpec("polite.toml", reward="score")
    assert JudgeClient(open_service.url).rewards_sync([sample], spec)[0].value == 4.0
    with pytest.raises(UsageError, match="takes no rubrics from requests; ask its operator to start it with --allow"):
        JudgeClient(service.url).rewards_sync([sample], spec)
